"""How is an encrypted file decrypted, from a terminal?

    tfdist decrypt model.keras.age --identity_file=team.key    writes model.keras
    TFDIST_IDENTITY_FILE=team.key tfdist decrypt model.keras.age --to=/dev/shm/model.keras

All of it is checked before anything is written. The checkpoint.age of a checkpoint becomes a tar
with the files of one that is not encrypted. What was decrypted lies on the disk for its owner to
read: Python's tfdist.encryption.load_model reads a model without that. Exit code 0, or 2 where it
could not be done.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from tfdist.encryption import files, keys
from tfdist.launch.command_line import CommandLine


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Its arguments; those of this process by default.

    Returns:
        The exit code: 2 where the file could not be decrypted.
    """
    line = CommandLine("tfdist decrypt", "FILE [flags]", text=__doc__, is_mixed=True)
    own = {"flag_values": line.flags}
    flags.DEFINE_string("to", None, "The new file; by default FILE without .age.", **own)
    flags.DEFINE_string(
        "identity_file", None, "The path of the file with an identity, by default what "
        f"{keys.IDENTITY_FILE} names.", **own,
    )
    paths = line.parse(argv)
    if len(paths) != 1:
        line.refuse("give one file")
    try:
        new = files.decrypt_file(
            paths[0], line.flags.to, identity_file=line.flags.identity_file
        )
    except (ValueError, OSError, ImportError) as error:
        return line.failed(error)
    print(f"tfdist: {new} can be read by its owner now")
    return 0
