"""
Commands about passcodes, passwords, locks and accounts.
"""

from __future__ import annotations

from typing import Final

from nanomdm.mdm.catalogue.keys import Care, Key, Kind, Known

_PASSWORD: Final = Key("Password", Kind.SECRET, "The password to verify.", required=True)
_CURRENT: Final = Key("CurrentPassword", Kind.SECRET, "The present password, if there is one.")
_NEW: Final = Key("NewPassword", Kind.SECRET, "The new password; empty for none.", required=True)
_ADMIN: Final = "AutoSetupAdminAccounts.0"

ACCESS: Final = (
    Known(
        "ClearPasscode",
        "Remove the passcode of a device.",
        "passcode.clear",
        (
            Key(
                "UnlockToken",
                Kind.TOKEN,
                "The device's unlock token, as it is or as base64.",
                required=True,
            ),
        ),
        care=Care.SEVERAL,
    ),
    Known("RequestUnlockToken", "Ask for the unlock token (up to iOS 6).", "passcode.unlocktoken"),
    Known(
        "ClearRestrictionsPassword",
        "Clear the passcode of Screen Time.",
        "device.restrictions.clearpassword",
        care=Care.SEVERAL,
    ),
    Known(
        "ClearActivationLockBypassCode",
        "Clear the code that bypasses Activation Lock.",
        "device.activationlock.clearbypasscode",
        care=Care.SEVERAL,
    ),
    Known(
        "SetFirmwarePassword",
        "Set or clear the firmware password of a Mac with an Intel processor.",
        "passcode.firmware.set",
        (_CURRENT, _NEW, Key("AllowOroms", Kind.BOOLEAN, "Enable option ROMs.")),
        care=Care.SEVERAL,
    ),
    Known(
        "VerifyFirmwarePassword",
        "Verify the firmware password of a Mac.",
        "passcode.firmware.verify",
        (_PASSWORD,),
    ),
    Known(
        "SetRecoveryLock",
        "Set or clear the Recovery Lock of a Mac with Apple silicon.",
        "passcode.recovery.set",
        (_CURRENT, _NEW),
        care=Care.SEVERAL,
    ),
    Known(
        "VerifyRecoveryLock",
        "Verify the Recovery Lock password of a Mac.",
        "passcode.recovery.verify",
        (_PASSWORD,),
    ),
    Known(
        "RotateFileVaultKey",
        "Replace the FileVault recovery key of a Mac.",
        "rotate.file.vault.key",
        (
            Key(
                "KeyType",
                Kind.TEXT,
                "Which recovery key.",
                choices=("personal", "institutional"),
                default="personal",
                required=True,
            ),
            Key(
                "FileVaultUnlock.Password",
                Kind.SECRET,
                "Password of a FileVault user, or the personal recovery key.",
            ),
            Key(
                "FileVaultUnlock.PrivateKeyExport",
                Kind.DATA,
                "PKCS #12 of the institutional key's private key.",
            ),
            Key(
                "FileVaultUnlock.PrivateKeyExportPassword",
                Kind.SECRET,
                "The password of that file.",
            ),
            Key("NewCertificate", Kind.CERTIFICATE, "Certificate for the new institutional key."),
            Key(
                "ReplyEncryptionCertificate",
                Kind.CERTIFICATE,
                "Certificate to encrypt the new personal key with.",
            ),
        ),
        care=Care.SEVERAL,
        any_of=("FileVaultUnlock.Password", "FileVaultUnlock.PrivateKeyExport"),
        needs=(("FileVaultUnlock.PrivateKeyExport", "FileVaultUnlock.PrivateKeyExportPassword"),),
    ),
    Known(
        "AccountConfiguration",
        "Make the administrator's account while Setup Assistant waits.",
        "account.configuration",
        (
            Key(
                "SkipPrimarySetupAccountCreation",
                Kind.BOOLEAN,
                "Do not let the user make an account.",
            ),
            Key(
                "SetPrimarySetupAccountAsRegularUser",
                Kind.BOOLEAN,
                "The user's account is no administrator's.",
            ),
            Key("PrimaryAccountFullName", Kind.TEXT, "The user's full name."),
            Key("PrimaryAccountUserName", Kind.TEXT, "The user's account name."),
            Key(
                "DontAutoPopulatePrimaryAccountInfo",
                Kind.BOOLEAN,
                "Let the user enter these.",
            ),
            Key("LockPrimaryAccountInfo", Kind.BOOLEAN, "Do not let the user change these."),
            Key(
                f"{_ADMIN}.shortName",
                Kind.TEXT,
                "The administrator's account name.",
                option="admin-short-name",
            ),
            Key(
                f"{_ADMIN}.fullName",
                Kind.TEXT,
                "The administrator's full name.",
                option="admin-full-name",
            ),
            Key(
                f"{_ADMIN}.passwordHash",
                Kind.DATA,
                "The administrator's password: a salted SHA-512 PBKDF2 property list.",
                option="admin-password-hash",
            ),
            Key(
                f"{_ADMIN}.hidden",
                Kind.BOOLEAN,
                "Do not show the administrator at the login.",
                option="admin-hidden",
            ),
            Key("ManagedLocalUserShortName", Kind.TEXT, "The local account to manage."),
        ),
        needs=(
            ("SkipPrimarySetupAccountCreation", f"{_ADMIN}.shortName"),
            ("SetPrimarySetupAccountAsRegularUser", f"{_ADMIN}.shortName"),
            (f"{_ADMIN}.fullName", f"{_ADMIN}.shortName"),
            (f"{_ADMIN}.passwordHash", f"{_ADMIN}.shortName"),
            (f"{_ADMIN}.hidden", f"{_ADMIN}.shortName"),
        ),
    ),
    Known(
        "SetAutoAdminPassword",
        "Change the password of the administrator whom Setup Assistant made.",
        "set.auto.admin.password",
        (
            Key("GUID", Kind.TEXT, "The account's unique identifier.", required=True),
            Key(
                "passwordHash",
                Kind.DATA,
                "The password: a salted SHA-512 PBKDF2 property list.",
                required=True,
            ),
        ),
    ),
    Known("LogOutUser", "Log the user of a Shared iPad out.", "user.logout", care=Care.SEVERAL),
    Known(
        "DeleteUser",
        "Delete a user's account.",
        "user.delete",
        (
            Key("UserName", Kind.TEXT, "The account's name."),
            Key("ForceDeletion", Kind.BOOLEAN, "Even if data was not synchronized yet."),
            Key("DeleteAllUsers", Kind.BOOLEAN, "All of them."),
        ),
        care=Care.ALWAYS,
        any_of=("UserName", "DeleteAllUsers"),
    ),
    Known(
        "UnlockUserAccount",
        "Unlock an account that too many wrong passwords locked.",
        "user.unlock",
        (Key("UserName", Kind.TEXT, "The account's name.", required=True),),
    ),
)
