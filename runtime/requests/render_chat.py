"""Renders chat requests through a model's Jinja template; the program runs it as a child and talks to it over stdin and stdout.

Both directions carry frames: 8 bytes of length (big endian), then JSON in UTF-8. The first frame in is the job ("templates", "tokens",
"special_tokens", "seconds", "bytes"), its answer {"ready": true}. Then each request line of the input file is answered by {"text", "borders"} or {"error"}.
Templates come from strangers: they run in Jinja's sandbox, with limits on time and memory, and without the right to open files.
"""

import codecs
import datetime
import itertools
import json
import resource
import signal
import struct
import sys
import time

sys.path = [folder for folder in sys.path if folder]  # not the working directory


def receive():
    head = sys.stdin.buffer.read(8)
    return sys.stdin.buffer.read(struct.unpack(">Q", head)[0]) if len(head) == 8 else None


def send(value):
    data = json.dumps(value).encode()
    sys.stdout.buffer.write(struct.pack(">Q", len(data)) + data)
    sys.stdout.buffer.flush()


try:
    import jinja2
    import jinja2.debug  # these are needed late, when no file can be opened any more
    import jinja2.ext
    import jinja2.sandbox
    import jinja2.utils
    import pprint
    import random
    import re
except ImportError as error:
    receive()
    send({"error": f"{sys.executable}: {error}"})
    sys.exit(0)


class Generation(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %}: marks what the model wrote, for training; its body is rendered."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("body_of"), [], [], body).set_lineno(line)

    def body_of(self, caller):
        return caller()


class Namespace(jinja2.utils.Namespace):
    """Jinja's namespace without names that begin with an underscore."""

    def __init__(*arguments, **values):
        for name in dict(*arguments[1:], **values):
            Namespace.check(name)
        jinja2.utils.Namespace.__init__(*arguments, **values)

    def __setitem__(self, name, value):
        Namespace.check(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def check(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace can't have the attribute {name!r}")


class Dict:
    """`dict` as a template may use it: called, and `dict.fromkeys`."""

    def __call__(self, *arguments, **values):
        return dict(*arguments, **values)

    def fromkeys(self, *arguments):
        return dict.fromkeys(*arguments)


class Parts(list):
    """The parts of a message's content. Knows whether a template took them for a text."""

    taken_for_text = False

    def __str__(self):
        Parts.taken_for_text = True
        return super().__str__()


class Borders:
    """Puts marks into strings of a request so that no special token can be read out of them, and finds the marks again.

    A mark, a private-use character that nothing else has, stands behind the first character of each special token's name, and where a string ends
    with the beginning of a name or begins with the end of one. So it never stands where a template would trim, split or compare.
    """

    def __init__(self, names):
        names = [name for name in names if len(name) > 1]
        self.starts = re.compile("|".join(f"{re.escape(n[0])}(?={re.escape(n[1:])})" for n in names) or "(?!)")
        self.heads = {name[:size] for name in names for size in range(1, len(name))}
        self.tails = {name[size:] for name in names for size in range(1, len(name))}
        self.longest = max(map(len, names), default=0)
        self.mark = ""

    def choose_mark(self, *texts):
        taken = set().union(*texts)
        whole = "".join(texts)
        self.mark = next(c for c in map(chr, range(0xE000, 0xF8FF)) if c not in taken and self.escaped(c) not in whole)

    @staticmethod
    def escaped(mark):
        return f"\\u{ord(mark):04x}"

    def put(self, value):
        if isinstance(value, str):
            return self.put_into_text(value)
        if isinstance(value, dict):
            return {self.put_into_text(key): self.put(element) for key, element in value.items()}
        if isinstance(value, list):
            return [self.put(element) for element in value]
        return value

    def put_into_text(self, text):
        places = {match.end() for match in self.starts.finditer(text)}
        for size in range(1, min(self.longest, len(text) + 1)):
            if text[-size:] in self.heads:
                places.add(len(text) - size + 1)
            if text[:size] in self.tails:
                places.add(0)
        if not places:
            return text
        cuts = [0, *sorted(places), len(text)]
        return self.mark.join(text[a:b] for a, b in zip(cuts, cuts[1:]))

    def take(self, text):
        """The text without marks, and where they were, in bytes."""
        pieces = text.split(self.mark) if self.mark else [text]
        sizes = [len(piece.encode()) for piece in pieces]
        return {"text": "".join(pieces), "borders": list(itertools.accumulate(sizes[:-1]))}


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def no_other_template(name):
    raise jinja2.exceptions.TemplateError(f"it includes, imports or extends {name!r}: a chat template stands alone")


def strftime_now(layout):
    return datetime.datetime.now().strftime(layout)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return text.replace(Borders.escaped(borders.mark), borders.mark) if ensure_ascii and borders.mark else text


class Template:
    def __init__(self, file, text):
        self.file, self.text, self.compiled = file, text, None

    def render(self, variables):
        if self.compiled is None:
            code = environment.compile(self.text, filename=self.file)
            self.compiled = jinja2.Template.from_code(environment, code, environment.make_globals(None))
        return self.compiled.render(variables)

    def describe(self, error):
        line = getattr(error, "lineno", None)
        frame = error.__traceback__
        while frame is not None:
            if frame.tb_frame.f_code.co_filename == self.file:
                line = frame.tb_lineno
            frame = frame.tb_next
        kind = "" if type(error) is jinja2.exceptions.TemplateError else f"{type(error).__name__}: "
        return f"{self.file}{f', line {line}' if line else ''}: {kind}{str(error)[:1000]}"


REASONING = ("reasoning_content", "thinking", "reasoning")
CONTINUE = "CONTINUE_FINAL_MESSAGE_TAG "


def prepare(message):
    """A message as templates expect it: no nulls, calls' arguments as objects, reasoning under the names that are in use."""
    message = {key: value for key, value in message.items() if value is not None}
    for call in message.get("tool_calls", []):
        function = call.get("function")
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            try:
                arguments = json.loads(function["arguments"])
            except ValueError:
                continue
            if isinstance(arguments, dict):
                function["arguments"] = arguments
    reasoning = next((message[name] for name in REASONING if name in message), None)
    if reasoning is not None:
        message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
    return message


def flat(message):
    content = message.get("content")
    return {**message, "content": "\n".join(part["text"] for part in content)} if isinstance(content, list) else message


def open_end(messages):
    """The messages with a tag behind the text that the model is to go on with, and that text."""
    *before, last = messages
    content = last.get("content")
    if isinstance(content, list) and content:
        part = content[-1]
        content = Parts([*content[:-1], {**part, "text": part["text"] + CONTINUE}])
        return [*before, {**last, "content": content}], part["text"]
    if not isinstance(content, str):
        raise ValueError("continue_final_message: the final message has no content")
    return [*before, {**last, "content": content + CONTINUE}], content


def cut(text, final):
    """The rendered text up to the end of the final message."""
    tag = CONTINUE.strip()
    if final.strip() not in text or tag not in text:
        raise ValueError("continue_final_message: the template does not show the final message as it is")
    at = text.rindex(tag)
    return text[:at] if text.startswith(CONTINUE, at) else text[:at].rstrip()


def render_messages(template, messages, variables, go_on):
    final = ""
    if go_on:
        messages, final = open_end(messages)
    text = template.render({**variables, "messages": messages})
    return cut(text, final) if go_on else text


def choose_template(tools):
    name = "tool_use" if tools is not None and "tool_use" in templates else "default"
    if name not in templates:
        raise ValueError(f"no chat template is named default; there are {', '.join(sorted(templates))}")
    return templates[name]


def render(body, template, tools):
    go_on = bool(body.get("continue_final_message"))
    own = {**(body.get("chat_template_kwargs") or {})}
    if body.get("reasoning_effort") is not None:
        own.setdefault("reasoning_effort", body["reasoning_effort"])
    given = {"messages": [prepare(message) for message in body["messages"]], "tools": tools,
             "documents": body.get("documents"), "own": own}
    borders.mark = ""
    if body.get("split_special_tokens") is not False:
        borders.choose_mark(json.dumps(given, ensure_ascii=False), template.text, *job["tokens"].values())
        given = borders.put(given)
    prompt = body.get("add_generation_prompt")
    variables = {**job["tokens"], **given["own"], "tools": given["tools"], "documents": given["documents"],
                 "add_generation_prompt": not go_on if prompt is None else prompt}
    messages = given["messages"]
    in_parts = [message for message in messages if isinstance(message.get("content"), list)]
    for message in in_parts:
        message["content"] = Parts(message["content"])
    Parts.taken_for_text = False
    try:
        text = render_messages(template, messages, variables, go_on)
    except (jinja2.exceptions.TemplateError, TypeError):
        if not in_parts:
            raise
        Parts.taken_for_text = True
    if in_parts and Parts.taken_for_text:
        text = render_messages(template, [flat(message) for message in messages], variables, go_on)
    return borders.take(text)


def answer(line):
    template = None
    try:
        signal.setitimer(signal.ITIMER_PROF, job["seconds"])
        signal.setitimer(signal.ITIMER_VIRTUAL, 2 * job["seconds"])  # ends this process where the first can't interrupt
        try:
            body = json.loads(line)["body"]
            tools = None if body.get("tool_choice") == "none" else body.get("tools")
            template = choose_template(tools)
            return render(body, template, tools)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except MemoryError:
        return {"error": f"{template.file}: it needs more than {job['bytes'] >> 20} MiB of memory"}
    except Exception as error:
        return {"error": template.describe(error) if template else str(error), "slow": isinstance(error, TimeoutError)}


def out_of_time(*_):
    raise TimeoutError(f"it runs for more than {job['seconds']} s")


job = json.loads(receive())
templates = {name: Template(t["file"], t["text"]) for name, t in job["templates"].items()}
borders = Borders(job["special_tokens"])
environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols],
    loader=jinja2.FunctionLoader(no_other_template))
environment.filters["tojson"] = tojson
environment.globals.update(raise_exception=raise_exception, strftime_now=strftime_now, dict=Dict(), namespace=Namespace)

codecs.lookup("unicode_escape")  # opens a file, as the next line does
time.localtime()
signal.signal(signal.SIGPROF, out_of_time)
resource.setrlimit(resource.RLIMIT_AS, (job["bytes"], job["bytes"]))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
send({"ready": True})
while (line := receive()) is not None:
    send(answer(line))
