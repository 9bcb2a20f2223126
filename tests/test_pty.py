"""The chat in a real pseudo-terminal, once."""

import os
import sys

import pexpect
import pytest

pytestmark = pytest.mark.pty


def test_a_conversation_in_a_terminal(tmp_path):
    env = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    env |= {"RWKVEDIT_HOME": str(tmp_path), "PROMPT_TOOLKIT_NO_CPR": "1"}
    child = pexpect.spawn(
        sys.executable,
        ["-W", "ignore", "-m", "rwkvedit", "--threads", "1", "--max-tokens", "20000"],
        env=env,
        encoding="utf-8",
        timeout=120,
        dimensions=(24, 40),
    )
    try:
        child.expect("Ctrl-D leaves")
        child.expect(">")
        child.send("Bob lives in Austin.\r")
        child.expect(r"(Got it|Okay)[^\n]*\.\r\n")
        child.expect(">")
        child.sendcontrol("c")
        child.send("/heard\r")
        child.expect(r"Bob lives in Austin\.\r\n")
        child.expect(">")
        # sampled as wildly as can be, a reply hardly ends by itself
        child.send("/set temperature 50\r")
        child.expect("temperature is 50")
        child.expect(">")
        child.send("Tell me a story.\r")
        child.expect_exact("\x1b[?2004l")
        child.expect(r"\S{9}")  # words are coming
        child.sendintr()
        child.expect("stopped; /continue goes on")
        child.expect(">")
        child.send("/undo 2\r")
        child.expect("undid")
        child.expect(">")
        child.send("Where does Bob live?\r")
        child.expect(r"Bob lives in Austin\.\r\n")
        child.expect(">")
        child.sendeof()
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0
    finally:
        child.close(force=True)
