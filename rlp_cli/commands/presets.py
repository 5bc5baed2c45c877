"""`rlp presets`."""

from __future__ import annotations

from rlp_cli.render import Output


def presets(output: Output) -> None:
    """List the presets that a run can start from."""
    from rlp_engine.config.presets import list_presets, preset_path, preset_summary

    names = list_presets()
    width = max((len(name) for name in names), default=0)
    for name in names:
        output.show(f"  {name:<{width}}   {_first_sentence(preset_summary(name))}")
        if output.verbose:
            output.show(f"  {'':<{width}}   {preset_path(name)}", "dim")
    output.result({"presets": [_entry(name, preset_summary(name), str(preset_path(name))) for name in names]})


def _first_sentence(text: str) -> str:
    return text.split(". ")[0].rstrip(".") + "." if text else ""


def _entry(name: str, summary: str, path: str) -> dict[str, str]:
    return {"name": name, "summary": summary, "path": path}
