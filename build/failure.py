"""The one error of the build, told as those of the installer are."""

from __future__ import annotations

from installer.core import errors


class BuildError(errors.InstallerError):
    """The build cannot go on: a source, an image, a wheel or the machine is not as needed."""

    exit_code = 5
    meaning = "the build failed"
