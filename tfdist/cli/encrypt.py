"""How is a file encrypted, from a terminal?

    tfdist encrypt --new_identity=team.key                     prints its public key, age1...
    tfdist encrypt model.keras --encrypt_to=age1...            writes model.keras.age
    tfdist encrypt model.keras --encrypt_to=keys.txt --to=a.age
    tfdist encrypt model.keras.age --encrypt_to=keys.txt --rotate

Several keys, and files of them, may be given by several --encrypt_to: each of their identities
opens the file. The file itself stays, readable, until somebody removes it. --rotate encrypts an
encrypted file to other keys, without a readable file on the disk; it needs an identity that opens
it, in the file that --identity_file or TFDIST_IDENTITY_FILE names. Exit code 0, or 2 where it
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
        The exit code: 2 where the file could not be encrypted.
    """
    line = _make_line()
    paths = line.parse(argv)
    given = line.flags
    try:
        if given.new_identity:
            if paths or given.encrypt_to:
                line.refuse("--new_identity makes an identity, and nothing else beside it")
            print(keys.new_identity(given.new_identity))
            return 0
        if not paths:
            line.refuse("give the file")
        if not given.encrypt_to:
            line.refuse("say who may read it, by --encrypt_to=KEY_OR_FILE")
        if given.to and (given.rotate or len(paths) > 1):
            line.refuse("--to names the new file of one file that is encrypted")
        for path in paths:
            if given.rotate:
                files.rotate_file(
                    path, encrypt_to=given.encrypt_to, identity_file=given.identity_file
                )
                print(f"tfdist: {path} is encrypted to these keys now, and to no others")
            else:
                new = files.encrypt_file(path, given.to, encrypt_to=given.encrypt_to)
                print(f"tfdist: {new} is encrypted; {path} is still there for all to read")
    except (ValueError, OSError, ImportError) as error:
        return line.failed(error)
    return 0


def _make_line() -> CommandLine:
    line = CommandLine(
        "tfdist encrypt", "FILE... --encrypt_to=KEY_OR_FILE [flags]", text=__doc__, is_mixed=True
    )
    own = {"flag_values": line.flags}
    flags.DEFINE_multi_string(
        "encrypt_to", [], "A public key of age, age1..., or a file of them; may be given several "
        "times.", **own,
    )
    flags.DEFINE_string("to", None, "The new file; by default FILE.age.", **own)
    flags.DEFINE_boolean("rotate", False, "Encrypts an encrypted file anew.", **own)
    flags.DEFINE_string(
        "identity_file", None, "For --rotate: the path of the file with an identity, by default "
        f"what {keys.IDENTITY_FILE} names.", **own,
    )
    flags.DEFINE_string("new_identity", None, "Makes an identity in this new file.", **own)
    return line
