"""Where the files of a form go while they are received."""

from pathlib import Path
from typing import IO

from django.conf import settings
from django.core.exceptions import TooManyFilesSent
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler, SkipFile


class CountingHandler(FileUploadHandler):
    """The first handler of every form but a batch's: it holds them to FER_MAX_FILES, as each file that
    Django keeps for a view stays open."""

    files = 0

    def new_file(self, *args: object, **kwargs: object) -> None:
        super().new_file(*args, **kwargs)  # type: ignore[arg-type]
        self.files += 1
        if self.files > settings.FER_MAX_FILES:
            raise TooManyFilesSent("More files than FER_MAX_FILES.")

    def receive_data_chunk(self, raw_data: bytes, start: int) -> bytes:
        return raw_data

    def file_complete(self, file_size: int) -> None:
        return None


class FolderHandler(FileUploadHandler):
    """Writes the files of one field into a folder, named 1, 2, 3…, and closes each when it is there.

    What a view finds in request.FILES tells their names and sizes, and can't be read.
    """

    file: IO[bytes]  # the one that is received now; Django closes it where that breaks off

    def __init__(self, field: str, folder: Path, most: int) -> None:
        super().__init__()
        self._field = field
        self._folder = folder
        self._most = most
        self._files = 0

    def new_file(self, *args: object, **kwargs: object) -> None:
        super().new_file(*args, **kwargs)  # type: ignore[arg-type]
        if self.field_name != self._field:
            raise SkipFile
        self._files += 1
        if self._files > self._most:
            raise TooManyFilesSent("More files than go into one batch.")
        path = self._folder / str(self._files)
        path.touch(mode=0o600, exist_ok=False)
        self.file = path.open("wb")

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        self.file.write(raw_data)

    def file_complete(self, file_size: int) -> "UploadedFile[bytes]":
        self.file.close()
        return UploadedFile(self.file, self.file_name, self.content_type, file_size)
