"""What every test may rely on."""

import signal

# A background job of a shell starts with SIGINT ignored, and its children would ignore Ctrl-C too. A handler of our
# own is not inherited: what the tests start has the default again.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
