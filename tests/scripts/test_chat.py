"""scripts/chat.py in a pseudo-terminal, at a pipe, and with mistakes."""

import codecs
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from plm.errors import ConfigError
from plm.export.hf import hf
from plm.formats.common import About
from plm.rollout.sampling import Sampling
from scripts import chat as script
from tests import forking
from tests.serving.common import CONTEXT, MARKS, chat, model, tokenizer

ROOT = Path(script.__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("chat") / "model"
    about = About(chat_template=chat().template)
    return hf(model(torch.float32), tokenizer(), place, about=about)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from plm.data import tokenizer as bpe

    plain = bpe.train(["Some text"], vocab_size=270, special_tokens=MARKS[:1])
    return hf(model(torch.float32), plain, tmp_path_factory.mktemp("base") / "m", about=About())


class Terminal:
    """The script in a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        import pty

        parent, child = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "PYTHONUTF8": "1"}
        environment.pop("NO_COLOR", None)
        command = [sys.executable, "scripts/chat.py", *arguments]

        def begin() -> None:
            # A shell lets what it starts in the background ignore Ctrl-C, and its children too.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            # Its own session, with this as the terminal that Ctrl-C comes from.
            os.login_tty(child)

        self.process = subprocess.Popen(
            command,
            stdin=child,
            stdout=child,
            stderr=child,
            cwd=ROOT,
            env=environment,
            preexec_fn=begin,
        )
        os.close(child)
        self.parent, self.seen = parent, ""
        # What is read may end amid a character.
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    def read(self, until: str, seconds: float = 90) -> str:
        """What comes up to a text, without what colours and edits it."""
        end = time.monotonic() + seconds
        while until not in (clean := re.sub(r"\x1b\[[\d;?]*[a-zA-Z]|[\r\a]", "", self.seen)):
            assert time.monotonic() < end, f"{until!r} never came, but {self.seen!r}"
            if select.select([self.parent], [], [], 0.2)[0]:
                try:
                    self.seen += self.decoder.decode(os.read(self.parent, 4096))
                except OSError:
                    assert until == "", f"it ended before {until!r}: {self.seen!r}"
                    break
        place = clean.index(until) + len(until)
        self.seen = clean[place:]
        return clean[:place]

    def say(self, text: str) -> None:
        os.write(self.parent, text.encode())

    def interrupt(self, until: str) -> None:
        """Ctrl-C, again where it fell between two of readline's waits, which Python does not see
        before the next key: what came in by then was read, yet nothing is said."""
        for _ in range(20):
            self.say("\x03")
            try:
                self.read(until, seconds=5)
                return
            except AssertionError:
                continue
        raise AssertionError(f"{until!r} never came, but {self.seen!r}")

    def end(self) -> int:
        code = self.process.wait(60)
        os.close(self.parent)
        return code


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_conversation_at_a_terminal(folder: Path, tmp_path: Path):
    saved = tmp_path / "talk.jsonl"
    arguments = [f"run={folder}", "max_new_tokens=200", "system=Be short.", "temperature=1"]
    terminal = Terminal(*arguments)
    try:
        assert f"talking with {folder}" in terminal.read("\n> ")
        terminal.say("/help\n")
        assert "/save file.jsonl" in terminal.read("\n> ")
        terminal.say("/nothing\n")
        assert "no command /nothing; there are /help, /clear" in terminal.read("\n> ")
        # A line that goes on, and words that are no command.
        terminal.say("Where is\\\n")
        terminal.read("… ")
        terminal.say("/etc/town?\n")
        terminal.read("/etc/town?\n")
        assert len(terminal.read("\n> ")) > 5
        terminal.say(f"/save {saved}\n")
        terminal.read(f"written: {saved}")
        terminal.say(f"/save {saved}\n/save\n")
        said = terminal.read("/save needs the name of a file")
        assert "exists already; remove it, or save under another name" in said
        terminal.say("town " * 300 + "\n")
        terminal.read("and the context has 256, which leaves no room for an answer; say it shorter")
        terminal.say("/system Be long.\n")
        terminal.read("system message set")
        terminal.say("/clear\n")
        terminal.read("all forgotten")
        # Ctrl-C drops a line, Ctrl-D leaves.
        terminal.read("> ")
        terminal.say("half a line")
        terminal.read("half a line")
        terminal.interrupt("Ctrl-D or /exit leaves")
        terminal.read("> ")
        terminal.say("\x04")
        assert terminal.end() == 0
    finally:
        terminal.process.kill()
    told = json.loads(saved.read_text())
    assert [one["role"] for one in told["messages"]] == ["system", "user", "assistant"]
    asked, answered = (one["content"] for one in told["messages"][1:])
    talk = script.begin(script.settings(arguments))
    assert asked == "Where is\n/etc/town?"
    assert answered == "".join(event.text for event in talk.answer(talk.ask(asked)))
    assert told["settings"]["max_new_tokens"] == 200 and told["settings"]["run"] == str(folder)


def test_ctrl_c_stops_an_answer_and_not_the_program(monkeypatch, capsys, folder: Path):
    chosen = script.settings([f"run={folder}", "max_new_tokens=150", "temperature=1"])
    talk = script.begin(chosen)
    loop = script.Loop(talk, chosen)
    lines, seen = iter(["Where?", "When?", "/exit"]), 0
    monkeypatch.setattr("builtins.input", lambda mark: next(lines))
    answer = talk.answer

    def interrupted(turn):
        nonlocal seen
        for event in answer(turn):
            seen += 1
            if seen == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield event

    monkeypatch.setattr(talk, "answer", interrupted)
    before = signal.getsignal(signal.SIGINT)
    assert loop.run() == 0
    assert capsys.readouterr().err.count("(stopped)") == 1
    assert signal.getsignal(signal.SIGINT) is before and talk.engine.idle
    # The second answer came whole, after what was said of the first.
    assert seen > 10 and talk.messages[0]["content"] == "Where?"


def conversation(talk, chosen, monkeypatch, *lines: str) -> None:
    left = iter([*lines, "/exit"])
    monkeypatch.setattr("builtins.input", lambda mark: next(left))
    assert script.Loop(talk, chosen).run() == 0


def test_answers_are_refined_and_the_last_one_is_kept(folder: Path, monkeypatch, capsys):
    text = "{question} Not: {answer} Better:"
    settings = [f"run={folder}", "max_new_tokens=9", "temperature=1", f"template={text}"]
    chosen = script.settings([*settings, "refine=2"])
    talk, asked = script.begin(chosen), []
    ask = talk.ask
    monkeypatch.setattr(talk, "ask", lambda said: asked.append(said) or ask(said))
    conversation(talk, chosen, monkeypatch, "/refine", "Where?", "/refine", "When?")
    said = capsys.readouterr()
    notes = [line for line in said.err.splitlines() if line.startswith(("turn", "error"))]
    refused = "error: nothing was said yet that could be refined"
    assert notes == [refused, "turn 1", "turn 2", "turn 3", "turn 1", "turn 2"]
    shown = said.out.split("\n")
    # Each refinement is shown the answer before it, and the conversation begins with the question.
    assert asked[:2] == ["Where?", f"Where? Not: {talk_of(asked[1])} Better:"]
    answers = [talk_of(one) for one in asked[1:4]]
    assert all(answer.split("\n")[0] in "\n".join(shown) for answer in answers)
    assert len(set(answers)) == 3 and asked[4] == "When?"
    told = [one["content"] for one in talk.messages]
    assert told[0] == "Where?" and told[2] == "When?" and len(told) == 4
    assert told[1] not in answers and told[1] in said.out


def talk_of(asked: str) -> str:
    """The answer that a refinement was shown."""
    return asked.partition(" Not: ")[2].removesuffix(" Better:")


def test_an_answer_stands_where_it_cannot_be_refined(folder: Path, monkeypatch, capsys):
    long = "{question} {answer}" + " town" * 300
    settings = [f"run={folder}", "max_new_tokens=9", "temperature=1", f"template={long}"]
    chosen = script.settings([*settings, "refine=2"])
    talk = script.begin(chosen)
    conversation(talk, chosen, monkeypatch, "Where?", "/refine")
    said = capsys.readouterr()
    why = "not refined: question and answer, shown once more, leave no room in the context of"
    assert said.err.count(f"{why} {CONTEXT}") == 2 and "turn 1" not in said.err
    assert [one["role"] for one in talk.messages] == ["user", "assistant"]
    assert talk.messages[1]["content"] in said.out
    # Nor where Ctrl-C stops the refinement.
    chosen = script.settings([f"run={folder}", "max_new_tokens=30", "temperature=1", "refine=2"])
    talk, turns = script.begin(chosen), []
    answer = talk.answer

    def interrupted(turn):
        turns.append(turn)
        for number, event in enumerate(answer(turn)):
            if len(turns) == 2 and number == 1:
                os.kill(os.getpid(), signal.SIGINT)
            yield event

    monkeypatch.setattr(talk, "answer", interrupted)
    conversation(talk, chosen, monkeypatch, "Where?")
    said = capsys.readouterr()
    assert "(stopped)\nthe answer before it stands" in said.err and len(turns) == 2
    assert said.out.startswith(talk.messages[1]["content"] + "\n")


def test_a_pipe_gets_the_last_refinement(folder: Path, monkeypatch, capsys):
    arguments = [f"run={folder}", "max_new_tokens=9", "temperature=1"]
    at_a_pipe(monkeypatch, "Where?")
    assert script.main(arguments) == 0
    first = capsys.readouterr().out
    at_a_pipe(monkeypatch, "Where?")
    assert script.main([*arguments, "refine=1", "template=short"]) == 0
    said = capsys.readouterr()
    assert said.err.startswith(f"turn 0: {first}") and said.out and said.out != first
    long = "{question} {answer}" + " town" * 300
    at_a_pipe(monkeypatch, "Where?")
    assert script.main([*arguments, "refine=2", f"template={long}"]) == 0
    said = capsys.readouterr()
    assert said.out == first and said.err.startswith("not refined: question and answer, shown")


def piped(folder: Path, text: bytes, *more: str) -> subprocess.CompletedProcess:
    command = [*forking.python(), "scripts/chat.py", f"run={folder}", "max_new_tokens=9", *more]
    return subprocess.run(command, input=text, capture_output=True, cwd=ROOT, timeout=120)


def test_a_pipe_gets_one_answer(folder: Path):
    done = piped(folder, b"Where is\nthe town?\n", "temperature=0")
    asked = [{"role": "user", "content": "Where is\nthe town?"}]
    from plm.rollout.engine import Engine

    engine = Engine(model(torch.float32), tokenizer=tokenizer(), stop_ids=(0, 2))
    [expected] = engine.generate([chat().prompt(asked)], Sampling(max_new_tokens=9))
    assert done.returncode == 0 and done.stdout.decode() == expected.text + "\n"
    assert done.stderr.decode() == "cut after 9 tokens\n"


def at_a_pipe(monkeypatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_a_model_without_conversations_continues_text(base: Path, monkeypatch, capsys):
    at_a_pipe(monkeypatch, "Some \n")
    assert script.main([f"run={base}", "max_new_tokens=5", "seed=3"]) == 0
    said = capsys.readouterr()
    assert said.out and said.err.startswith("no chat template: continuing the text\n")
    lines = iter(["Some text", "/system Be short.", "/refine", "/exit"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda mark: next(lines))
    assert script.main([f"run={base}", "max_new_tokens=5"]) == 0
    said = capsys.readouterr()
    assert "no chat template: continuing text" in said.err
    assert "error: this model knows no conversations, and so no system message" in said.err
    assert "error: this model knows no conversations, in which answers are refined" in said.err


def test_it_says_which_limit_ended_an_answer(folder: Path, monkeypatch, capsys):
    at_a_pipe(monkeypatch, "town " * 100)
    # Greedy, this model says no end.
    assert script.main([f"run={folder}", "max_new_tokens=100000", "temperature=0"]) == 0
    said = capsys.readouterr().err
    assert re.fullmatch(r"cut after \d+ tokens: the context is full\n", said), said
    at_a_pipe(monkeypatch, "town")
    assert script.main([f"run={folder}", "max_new_tokens=1", "temperature=0"]) == 0
    assert capsys.readouterr().err == "cut after 1 token\n"


def test_old_turns_are_dropped_with_a_note(folder: Path, monkeypatch, capsys):
    chosen = script.settings([f"run={folder}", "max_new_tokens=60", "temperature=1"])
    talk = script.begin(chosen)
    lines = iter([*(f"town {n}" for n in range(6)), "/exit"])
    monkeypatch.setattr("builtins.input", lambda mark: next(lines))
    assert script.Loop(talk, chosen).run() == 0
    assert "the context is full: 1 older turn is forgotten" in capsys.readouterr().err
    assert talk.forgotten


def test_what_would_steer_the_terminal_is_not_shown():
    assert script.shown("a\x1b[2J\tä漢\n\x9b1m\r") == "a\ufffd[2J\tä漢\n\ufffd1m\ufffd"


def test_mistakes_are_one_line(folder: Path, base: Path, monkeypatch, capsys):
    good = f"run={folder}"
    cases = [
        ([], "", "run=<run folder"),
        (["run=nowhere"], "", "run=nowhere does not exist"),
        ([good, "temprature=1"], "", "did you mean temperature=…?"),
        ([good, "temperature=hot"], "", "temperature=hot is not a number"),
        ([good, "top_k=1.5"], "", "top_k=1.5 is not a whole number"),
        ([good, "top_p=3"], "", "top_p=3.0 cannot be"),
        ([good, "device=tpu"], "", "device=tpu"),
        ([good], " \n", "nothing came on standard input"),
        ([good], "town " * 300, f"and the context has {CONTEXT}, which leaves no room"),
        ([good, "refine=-1"], "", "refine=-1 is negative"),
        ([good, "template=shrot"], "", "template='shrot' is no text with {question}"),
        ([f"run={base}", "refine=1"], "", "refine=…: "),
        ([f"run={base}", "system=x"], "", "knows no conversations, it continues text"),
    ]
    for arguments, text, message in cases:
        at_a_pipe(monkeypatch, text)
        assert script.main(arguments) == 2, arguments
        said = capsys.readouterr()
        assert message in said.err and len(said.err.splitlines()) == 1, said.err
        assert not said.out


def test_help_comes_at_once(capsys):
    assert script.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"    {key} " in said for key in script.DEFAULTS)
    assert all(f"    {command}" in said for command in script.COMMANDS)


def test_settings():
    chosen = script.settings(["temperature=0", "stop=[a, b]", "seed=1_000", "min_p=0.1"])
    assert chosen["temperature"] == 0.0 and chosen["stop"] == ["a", "b"]
    assert chosen["seed"] == 1000 and chosen["min_p"] == 0.1
    with pytest.raises(ConfigError, match="seed=x is not a whole number"):
        script.settings(["seed=x"])
