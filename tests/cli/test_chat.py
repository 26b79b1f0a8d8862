"""`perfxlm chat`: turns, commands, and Ctrl-C."""

import re
import signal

from .command import SHORT, perfxlm, start

TEACH = "My name is Bartholomew. Please remember it.\n"
RECALL = "What is my name?\n"


def test_turns_build_on_each_other_until_reset():
    done = perfxlm("chat", *SHORT, "--max-tokens", "24",
                   stdin=f"{TEACH}{RECALL}/reset\n{RECALL}/exit\nnever asked\n")  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts = [int(line.split()[0]) for line in done.stderr.splitlines() if "prompt tokens" in line]
    assert len(counts) == 3
    assert counts[1] > counts[0] > counts[2]
    assert "the conversation is forgotten" in done.stderr
    assert "(0 cached)" not in done.stderr.splitlines()[1]
    assert "cached)" in done.stderr.splitlines()[1]


def test_the_end_of_the_input_ends_the_program():
    done = perfxlm("chat", *SHORT, "--max-tokens", "4", stdin="Hello!")
    assert done.returncode == 0
    assert done.stdout.strip()


def test_unknown_commands_get_help_and_empty_lines_nothing():
    done = perfxlm("chat", *SHORT, stdin="\n  \n/what\n")
    assert done.returncode == 0
    assert done.stdout == ""
    assert "/reset forgets the conversation" in done.stderr


def test_a_turn_that_does_not_fit_is_refused_and_the_talk_goes_on():
    done = perfxlm("chat", "--temperature", "0", "--max-model-len", "128", "--max-tokens", "8",
                   stdin="word " * 300 + "\nHello!\n")  # fmt: skip
    assert done.returncode == 0
    assert "128" in done.stderr
    assert "/reset starts anew" in done.stderr
    assert done.stdout.strip()


def test_ctrl_c_stops_the_answer_not_the_program():
    with start("chat", "--temperature", "0", "--max-tokens", "4000") as process:
        process.stdin.write("Write a very long story about a dragon and a knight.\n")
        process.stdin.flush()
        begun = process.stdout.read(10)
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate("/reset\n/exit\n", timeout=60)
    assert process.returncode == 0, said
    assert begun
    assert "the conversation is forgotten" in said
    (told,) = [int(n) for n in re.findall(r"; (\d+) tokens", said)]
    assert told < 4000
    assert rest.endswith("\n")
    assert "Traceback" not in said
