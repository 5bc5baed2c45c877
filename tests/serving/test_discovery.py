"""What stands behind an address, found out on real sockets."""

from __future__ import annotations

import socket
import threading

import pytest
from fake_server import FakeServer, Reply

from rlp_engine.config.sections.generation import ServerConfig
from rlp_engine.errors import Interrupted, ServerError
from rlp_engine.run.signals import StopSignal
from rlp_engine.serving.discovery import find_servers
from rlp_engine.serving.kinds import KINDS


def lists(*rows: dict) -> Reply:
    return Reply(body={"object": "list", "data": list(rows)})


def config(*urls: str, **more: object) -> ServerConfig:
    return ServerConfig(base_urls=list(urls), **({"backoff_seconds": 0.01, "max_retries": 1} | more))


def dead_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


def test_the_servers_of_the_model_are_chosen_each_with_its_own_name_for_it():
    policy = "/runs/a/ppo/model"
    of_others = lists({"id": "/runs/a/sft/model", "owned_by": "vllm"})
    renamed = lists({"id": "mine", "root": policy, "owned_by": "vllm"})
    from_its_folder = lists({"id": "a/ppo/model", "owned_by": "vllm"})
    with (
        FakeServer(models=of_others) as sft,
        FakeServer(models=renamed) as one,
        FakeServer(models=from_its_folder) as two,
    ):
        dead = dead_url()
        found = find_servers(config(sft.url, one.url, two.url, dead), policy, stop=StopSignal())
        assert found.kind.name == "vllm"
        assert dict(found.names) == {one.url: "mine", two.url: "a/ppo/model", dead: "mine"}  # the dead may come back
        with pytest.raises(ServerError, match="no server has the model /runs/b/model") as error:
            find_servers(config(sft.url, one.url), "/runs/b/model", stop=StopSignal())
        assert error.value.found == "they serve: /runs/a/sft/model, mine"


def test_a_server_without_a_list_is_taken_at_its_word():
    with FakeServer(models=Reply(500, b"Internal Server Error")) as server:
        found = find_servers(config(server.url), "some/model", stop=StopSignal())
    assert (found.kind.name, dict(found.names)) == ("openai", {server.url: "some/model"})


def test_servers_of_several_kinds_are_refused_unless_the_config_says():
    row = {"id": "m"}
    with (
        FakeServer(models=lists(row | {"owned_by": "vllm"})) as one,
        FakeServer(models=lists(row | {"owned_by": "sglang"})) as two,
    ):
        with pytest.raises(ServerError, match="several kinds: sglang, vllm"):
            find_servers(config(one.url, two.url), "m", stop=StopSignal())
        assert find_servers(config(one.url, two.url, kind="sglang"), "m", stop=StopSignal()).kind.name == "sglang"


def test_nobody_there_is_asked_again_and_then_told():
    with pytest.raises(ServerError, match="no server answers"):
        find_servers(config(dead_url()), "m", stop=StopSignal())
    stop = StopSignal()
    threading.Timer(0.2, stop.request).start()
    with pytest.raises(Interrupted):
        find_servers(config(dead_url(), backoff_seconds=60.0), "m", stop=stop)


def test_what_each_kind_is_told_beyond_openais_fields():
    told = {name: kind.extra(temperature=1.0, top_p=1.0, eos_ids=(1, 7), pad_id=0) for name, kind in KINDS.items()}
    assert told["vllm"].items() >= {"top_k": -1, "repetition_penalty": 1.0, "return_token_ids": True}.items()
    assert told["transformers"] == {
        "generation_config": '{"eos_token_id": [1, 7], "pad_token_id": 0, "do_sample": true, "top_k": 0}'
    }
    assert told["tgi"] == {"top_p": None}
    assert told["openai"] == {}
