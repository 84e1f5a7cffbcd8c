"""Form: a multipart body as it comes: fields, and the bytes of one file, which nobody keeps.

Knows: multipart/form-data.
Must not know: what a field means, where the file's bytes go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from server.errors import BadRequest
from server.intake import Sink
from server.protocols import headers as h
from server.space import KIB

FIELDS_LIMIT_BYTES: Final = 64 * KIB
_FIELDS_LIMIT: Final = 100
_FILE_FIELD: Final = "file"


class Form:
    """Fields in the order in which they come; the file's bytes wait until somebody takes them."""

    def __init__(self, boundary: bytes) -> None:
        """Parse a body with this boundary."""
        self.fields: dict[str, str] = {}
        self.file_begun = False
        self.whole = False
        self.on_file: Callable[[memoryview], None] | None = None
        self._waiting: list[bytes] = []
        self._headers: dict[bytes, bytes] = {}
        self._name = self._value = b""
        self._field: str | None = None
        self._content = bytearray()
        self._in_file = False
        self._field_bytes = 0
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._take_name,
                    "on_header_value": self._take_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._open_part,
                    "on_part_data": self._take,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _broken(error) from error

    def feed(self, data: bytes) -> None:
        """The next bytes of the body.

        Raises:
            BadRequest: it is no form, has too many fields, or two files.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _broken(error) from error

    def attach(self, take: Callable[[memoryview], None]) -> None:
        """From now on the file's bytes go here, also those that waited."""
        self.on_file = take
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            take(memoryview(data))

    def check_whole(self) -> None:
        """Refuse a body that ended before its form did.

        Raises:
            BadRequest: there is no closing boundary.
        """
        if not self.whole:
            raise BadRequest("the form breaks off before its end", "send it again", code="form")

    def _begin_part(self) -> None:
        self._headers = {}
        self._name = self._value = b""

    def _take_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _open_part(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name")
        if kind != b"form-data" or name is None:
            raise BadRequest("the form has a part without a name", "send a form", code="form")
        self._field = _text(name)
        self._content.clear()
        self._in_file = b"filename" in options or self._field == _FILE_FIELD
        if self._in_file and self.file_begun:
            raise BadRequest("the form has two files", "send one chunk at a time", code="form")
        self.file_begun = self.file_begun or self._in_file

    def _take(self, data: bytes, start: int, end: int) -> None:
        if not self._in_file:
            self._field_bytes += end - start
            if self._field_bytes > FIELDS_LIMIT_BYTES:
                raise BadRequest(
                    f"the form's fields have over {FIELDS_LIMIT_BYTES} bytes",
                    "send the chunk as a file: with a `filename`",
                    code="form",
                )
            self._content += data[start:end]
        elif self.on_file is None:
            self._waiting.append(data[start:end])
        else:
            self.on_file(memoryview(data)[start:end])

    def _end_part(self) -> None:
        if not self._in_file and self._field is not None:
            add_field(self.fields, self._field, _text(bytes(self._content)))
        self._in_file = False

    def _end(self) -> None:
        self.whole = True


class FormSink:
    """A body that is a form: its file goes to a target."""

    def __init__(self, form: Form, target: Sink) -> None:
        """Nothing is written before the first `write`."""
        self._form = form
        self._target = target

    @property
    def position(self) -> int:
        """How far the target is."""
        return self._target.position

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the form."""
        if self._form.on_file is None:
            self._form.attach(self._target.write)
        self._form.feed(bytes(data))

    def arrived(self) -> None:
        """Bytes are here that will be written soon."""
        self._target.arrived()

    def finish(self) -> None:
        """Make everything written durable."""
        self._target.finish()


def add_field(fields: dict[str, str], name: str, value: str) -> None:
    """Add a field; the same again is harmless.

    Raises:
        BadRequest: it was said before, and differently; or there are too many.
    """
    if fields.get(name, value) != value:
        raise BadRequest(f"field {name!r} is there twice, with two values", "say it once")
    if len(fields) >= _FIELDS_LIMIT:
        raise BadRequest(f"over {_FIELDS_LIMIT} fields", "say what is needed")
    fields[name] = value


def boundary_of(request: Request) -> bytes | None:
    """The boundary of a body that is a form; None: it is something else.

    Raises:
        BadRequest: it is a form without a boundary.
    """
    if h.media_type(request.headers) != h.FORM_DATA:
        return None
    _, options = parse_options_header(h.single(request.headers, h.CONTENT_TYPE))
    boundary = options.get(b"boundary")
    if not boundary:
        raise BadRequest("the form has no boundary", "leave Content-Type to the browser")
    return boundary


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"a field is not UTF-8: {error}", "send UTF-8", code="form") from error


def _broken(error: FormParserError) -> BadRequest:
    return BadRequest(f"the body is no form: {error}", "send multipart/form-data", code="form")
