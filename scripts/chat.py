"""Talk with a trained model in a terminal.

    python scripts/chat.py run=runs/plm_sft
    python scripts/chat.py run=export/hf system="Answer in one line." temperature=0
    echo "What is 12 + 30?" | python scripts/chat.py run=runs/plm_sft

Settings, as key=value:
    run          run folder (its newest checkpoint), a checkpoint, or a Hugging Face folder
    system       text of the system message (none)
    temperature  of the draws; 0 takes the most likely token (0.7)
    top_p        draw among the likeliest tokens that hold this share (0.95)
    top_k        draw among the k likeliest; 0: all (0)
    min_p        drop tokens less likely than this share of the likeliest (0)
    repetition_penalty  above 1: what was said already becomes less likely (1)
    max_new_tokens  longest answer (512)
    stop         texts that end an answer, [a,b]
    seed         of the draws; the same words give the same answers (0)
    refine       so many times each answer is shown to the model again, for a better one; the
                 conversation goes on with the last (0)
    template     how it is shown: a text with {question} and {answer}, a file of it, or a name of
                 configs/refinement (what the checkpoint was trained with, else plm)
    weights      last, or average: those that callbacks.average kept (last)
    device       auto, cpu or cuda (auto)
    dtype        float32, bfloat16 or float16; auto: float32 on a CPU, bfloat16 on a GPU (auto)
    compiled     true: decode by kernels that a C++ compiler builds here on first use, in fp32 on a
                 CPU; auto: if there is one; false (false)
    trust        [mylab]: packages of your own that the model's parts come from

In the conversation:
    /help              this list
    /clear             forget what was said
    /refine            ask for a better answer than the last one, which takes its place
    /system [text]     set the system message, or remove it; begins anew
    /save file.jsonl   write what was said, as fine-tuning reads it
    /exit              leave, as Ctrl-D does
    Ctrl-C             stop an answer, or drop the line
    \\                  at the end of a line: the message goes on in the next

A model without a chat template continues what is typed, each text by itself. From a pipe, all of it
is one message and the answer alone goes to standard output; with refine= the last one, and those
before it to standard error. Exit code 0; 2: a mistake in the command, or a message that does not
fit the model.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, Interrupted, PlmError
from scripts.arguments import read

DRAWING = {
    "temperature": 0.7,
    "top_p": 0.95,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "max_new_tokens": 512,
    "seed": 0,
}
DEFAULTS: dict[str, Any] = {
    "run": None,
    "system": "",
    **DRAWING,
    "stop": [],
    "refine": 0,
    "template": None,
    "weights": "last",
    "device": "auto",
    "dtype": "auto",
    "compiled": "false",
    "trust": [],
}
COMMANDS = ("/help", "/clear", "/refine", "/system", "/save", "/exit")


def settings(arguments: list[str]) -> dict[str, Any]:
    """What the command line chooses.

    Raises:
        ConfigError: an unknown key, or a value of the wrong kind.
    """
    whole = [key for key, value in DRAWING.items() if isinstance(value, int)]
    chosen = read(arguments, DEFAULTS, numbers=[*whole, "refine"], lists=("stop", "trust"))
    if chosen["refine"] < 0:
        raise ConfigError(f"refine={chosen['refine']} is negative; 0 refines nothing")
    for key in DRAWING:
        try:
            chosen[key] = type(DRAWING[key])(chosen[key])
        except ValueError as error:
            raise ConfigError(f"{key}={chosen[key]} is not a number") from error
    return chosen


def begin(chosen: dict[str, Any]) -> Any:
    """A conversation with the model that was chosen."""
    from plm.config import trust
    from plm.evaluation.refined import template_of
    from plm.evaluation.subject import refinement_of
    from plm.rollout.sampling import Sampling
    from plm.serving.refining import Refining
    from plm.serving.served import engine_of
    from scripts.loading import computing, loaded

    drawing = {key: chosen[key] for key in DRAWING}
    sampling = Sampling(**drawing, stop=tuple(chosen["stop"]))
    trust(chosen["trust"])
    found = loaded(chosen)
    device, dtype = computing(chosen)
    compiled = chosen["compiled"]
    engine, chat = engine_of(found, rows=1, device=device, dtype=dtype, compiled=compiled)
    for key in ("system", "refine", "template"):
        if chosen[key] and chat is None:
            raise ConfigError(f"{key}=…: {found.path} knows no conversations, it continues text")
    template, _ = template_of(chosen["template"], refinement_of(found))
    return Refining(engine, chat, sampling, chosen["system"], template=template)


class Stop:
    """Ctrl-C while an answer grows: the first asks it to end, the second ends the program."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it the signal only leaves word: an engine is not to be left amid a step."""
        self.asked = False
        before = signal.signal(signal.SIGINT, self._take)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _take(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class Terminal:
    """What is shown, and how."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
        self.coloured = self.live and not plain

    def note(self, text: str) -> None:
        """A line about the conversation, not part of it."""
        print(f"\033[2m{text}\033[0m" if self.coloured else text, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Words of the model as they come."""
        print(shown(text) if self.live else text, end="", flush=True)

    def prompt(self, mark: str) -> str:
        """A line's beginning; readline must know which of it takes no room."""
        return f"\001\033[1m\002{mark}\001\033[0m\002 " if self.coloured else f"{mark} "


def shown(text: str) -> str:
    """A text without what would steer the terminal."""
    return "".join(c if c in "\n\t" or c.isprintable() else "\ufffd" for c in text)


class Loop:
    """The conversation at a terminal."""

    def __init__(self, talk: Any, chosen: dict[str, Any]) -> None:
        self.talk, self.chosen, self.terminal, self.stop = talk, chosen, Terminal(), Stop()
        # Of the last answer: how often it was refined.
        self.turn = 0

    def run(self) -> int:
        """Until the user leaves; the exit code."""
        try:
            # Only its import is needed: input() then edits lines and knows the older ones.
            import readline  # noqa: F401
        except ImportError:
            self.terminal.note("no readline here: lines cannot be edited")
        kind = "talking with" if self.talk.chat else "no chat template: continuing text, by"
        self.terminal.note(f"{kind} {self.chosen['run']}; /help lists the commands")
        while True:
            try:
                line = self._line()
            except EOFError:
                print()
                return 0
            except KeyboardInterrupt:
                print()
                self.terminal.note("Ctrl-D or /exit leaves")
                continue
            except UnicodeDecodeError:
                self.terminal.note("error: this is not text in UTF-8")
                continue
            command = line.split(maxsplit=1)[0] if line.strip() else ""
            if command == "/exit":
                return 0
            try:
                if command in COMMANDS:
                    self._obey(command, line.strip()[len(command) :].strip())
                elif command.startswith("/") and command[1:].isalpha():
                    self.terminal.note(f"no command {command}; there are {', '.join(COMMANDS)}")
                elif command:
                    self._answer(line)
            except PlmError as error:
                self.terminal.note(f"error: {error}")

    def _line(self) -> str:
        """A message, or a command; a backslash at the end joins the next line."""
        line = input(self.terminal.prompt(">"))
        while line.endswith("\\"):
            line = line[:-1] + "\n" + input(self.terminal.prompt("…"))
        return line

    def _obey(self, command: str, rest: str) -> None:
        talk = self.talk
        if command == "/help":
            self.terminal.note(__doc__.partition("In the conversation:\n")[2].partition("\n\n")[0])
        elif command == "/refine":
            self._once_more()
        elif command == "/clear":
            talk.clear()
            self.terminal.note("all forgotten")
        elif command == "/system":
            if talk.chat is None:
                raise ConfigError("this model knows no conversations, and so no system message")
            talk.system = rest
            talk.clear()
            self.terminal.note("system message set" if rest else "no system message")
        elif command == "/save":
            if not rest:
                raise ConfigError("/save needs the name of a file: /save talk.jsonl")
            told = {key: self.chosen[key] for key in ("run", *DRAWING, "stop", "refine")}
            talk.save(Path(rest).expanduser(), settings=told)
            self.terminal.note(f"written: {rest}")

    def _answer(self, text: str) -> None:
        text = text.strip() if self.talk.chat else text
        said, whole = self._say(self.talk.ask(text))
        self.turn = 0
        while whole and said.strip() and self.turn < self.chosen["refine"]:
            better = self._refined(text, said)
            if better is None:
                break
            said = better
        self.talk.keep(text, said)

    def _once_more(self) -> None:
        """Refine the last answer."""
        asked, answered = self.talk.take_back()
        try:
            answered = self._refined(asked, answered) or answered
        finally:
            self.talk.keep(asked, answered)

    def _refined(self, asked: str, answered: str) -> str | None:
        """A better answer; None: there is none, and the one before stands."""
        try:
            turn = self.talk.refine(asked, answered)
        except PlmError as error:
            self.terminal.note(f"not refined: {error}")
            return None
        self.terminal.note(f"turn {self.turn + 1}")
        said, whole = self._say(turn)
        if not whole or not said.strip():
            self.terminal.note("the answer before it stands")
            return None
        self.turn += 1
        return said

    def _say(self, turn: Any) -> tuple[str, bool]:
        """An answer, shown as it grows, and whether it was let come to its end."""
        if turn.dropped:
            many = "turn is" if turn.dropped == 1 else "turns are"
            self.terminal.note(f"the context is full: {turn.dropped} older {many} forgotten")
        said, finish = [], None
        with self.stop.watching():
            for event in self.talk.answer(turn):
                said.append(event.text)
                self.terminal.say(event.text)
                finish = event.finish
                if self.stop.asked:
                    break
        print(flush=True)
        self._end(turn, finish, "".join(said))
        return "".join(said), finish is not None

    def _end(self, turn: Any, finish: str | None, said: str) -> None:
        if finish is None:
            self.terminal.note("(stopped)")
        elif finish == "length":
            self.terminal.note(f"({cut(turn)})")
        elif not said.strip():
            self.terminal.note("(no words)")


def cut(turn: Any) -> str:
    """That an answer ended by its length, and which limit that was."""
    most = turn.sampling.max_new_tokens
    return f"cut after {most} token{'s' * (most != 1)}" + ": the context is full" * turn.cut


def once(talk: Any, turns: int) -> int:
    """Answer what comes from a pipe.

    Args:
        turns: refinements; what they take the place of goes to standard error.
    Raises:
        ConfigError: nothing came, or it is too long.
    """
    try:
        text = sys.stdin.read()
    except UnicodeDecodeError as error:
        raise ConfigError(f"standard input is not text in UTF-8: {error}") from error
    text = text.strip() if talk.chat else text.removesuffix("\n")
    if not text:
        raise ConfigError("nothing came on standard input")
    if talk.chat is None:
        print("no chat template: continuing the text", file=sys.stderr)
    terminal, turn, event = Terminal(), talk.ask(text), None
    if turns:
        turn, event, said = refined_once(talk, text, turn, turns)
        terminal.say(said)
    else:
        for event in talk.answer(turn):
            terminal.say(event.text)
    print(flush=True)
    if event.finish == "length":
        print(cut(turn), file=sys.stderr)
    return 0


def refined_once(talk: Any, text: str, turn: Any, turns: int) -> tuple[Any, Any, str]:
    """The last answer with words of a chain: its turn, its last event, and what it says."""
    events = list(talk.answer(turn))
    said = "".join(event.text for event in events)
    for number in range(turns):
        if not said.strip():
            break
        try:
            again = talk.refine(text, said)
        except PlmError as error:
            print(f"not refined: {error}", file=sys.stderr)
            break
        more = list(talk.answer(again))
        better = "".join(event.text for event in more)
        if not better.strip():
            print(f"turn {number + 1}: (no words)", file=sys.stderr)
            break
        print(f"turn {number}: {said}", file=sys.stderr)
        turn, events, said = again, more, better
    return turn, events[-1], said


def main(arguments: list[str]) -> int:
    """Exit code: 0, or 2 for what the user can put right."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    try:
        chosen = settings(arguments)
        talk = begin(chosen)
        return Loop(talk, chosen).run() if sys.stdin.isatty() else once(talk, chosen["refine"])
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return Interrupted.exit_code
    except BrokenPipeError:
        # Whoever read has left; Python would complain once more when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except PlmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
