"""
Commands that do something to a device, or set something on it.
"""

from __future__ import annotations

from typing import Final

from nanomdm.mdm.catalogue.keys import Care, Key, Kind, Known

_PIN: Final = Key("PIN", Kind.PIN, "Six digits that unlock a Mac again.")
_MESSAGE: Final = Key("Message", Kind.TEXT, "What to show on the lock screen.")
_PHONE: Final = Key("PhoneNumber", Kind.TEXT, "The phone number to show on the lock screen.")

DEVICE: Final = (
    Known(
        "RestartDevice",
        "Restart a device at once.",
        "device.restart",
        (
            Key("NotifyUser", Kind.BOOLEAN, "On a Mac: ask the user to, and do not force it."),
            Key("RebuildKernelCache", Kind.BOOLEAN, "On a Mac: rebuild the kernel cache."),
            Key("KextPaths", Kind.TEXTS, "Kernel extension to add to the kernel cache."),
        ),
        care=Care.SEVERAL,
        needs=(("KextPaths", "RebuildKernelCache"),),
    ),
    Known("ShutDownDevice", "Shut a device down at once.", "device.shutdown", care=Care.SEVERAL),
    Known(
        "DeviceLock",
        "Lock a device at once.",
        "device.lock",
        (_PIN, _MESSAGE, _PHONE),
        care=Care.SEVERAL,
    ),
    Known(
        "EraseDevice",
        "Erase all content of a device.",
        "device.erase",
        (
            _PIN,
            Key("PreserveDataPlan", Kind.BOOLEAN, "Keep the data plan of an eSIM."),
            Key(
                "DisallowProximitySetup",
                Kind.BOOLEAN,
                "Do not offer to set it up from a device nearby.",
            ),
            Key(
                "ObliterationBehavior",
                Kind.TEXT,
                "What a Mac does where it can not erase all content and settings.",
                choices=("Default", "DoNotObliterate", "ObliterateWithWarning", "Always"),
            ),
            Key(
                "ReturnToService.Enabled",
                Kind.BOOLEAN,
                "Enroll again by itself afterwards.",
                option="return-to-service",
            ),
            Key(
                "ReturnToService.WiFiProfileData",
                Kind.PROFILE,
                "Profile of the Wi-Fi network to use for that.",
                option="wifi-profile",
            ),
            Key(
                "ReturnToService.MDMProfileData",
                Kind.PROFILE,
                "Enrollment profile to use for that.",
                option="mdm-profile",
            ),
        ),
        care=Care.ALWAYS,
        needs=(
            ("ReturnToService.WiFiProfileData", "ReturnToService.Enabled"),
            ("ReturnToService.MDMProfileData", "ReturnToService.Enabled"),
        ),
    ),
    Known(
        "EnableLostMode",
        "Put a device into Lost Mode.",
        "device.lostmode.enable",
        (_MESSAGE, _PHONE, Key("Footnote", Kind.TEXT, "What to show in place of how to unlock.")),
        care=Care.SEVERAL,
        any_of=("Message", "PhoneNumber"),
    ),
    Known("DisableLostMode", "Take a device out of Lost Mode.", "device.lostmode.disable"),
    Known("PlayLostModeSound", "Let a device in Lost Mode sound.", "device.lostmode.playsound"),
    Known(
        "Settings",
        "Change settings of a device.",
        "settings",
        (
            Key(
                "Settings",
                Kind.SETTINGS,
                "ITEM.KEY=TEXT, ITEM.KEY:=JSON or ITEM.KEY@FILE, such as"
                " DeviceName.DeviceName=Desk or Bluetooth.Enabled:=true.",
                option="setting",
            ),
            Key(
                "Settings",
                Kind.DICTIONARIES,
                "Property list with an array of settings, or with one.",
                option="settings-file",
            ),
        ),
        any_of=("Settings",),
    ),
    Known(
        "DeclarativeManagement",
        "Begin with declarative management, or let a device synchronize.",
        "declarativemanagement",
        (Key("Data", Kind.DATA, "JSON: the tokens that the device is to compare with."),),
    ),
    Known("DeviceConfigured", "Let Setup Assistant go on.", "device.configured"),
    Known("UserConfigured", "Let a user of a Shared iPad go on.", "user.configured"),
    Known(
        "RequestMirroring",
        "Ask the user to share the screen.",
        "mirroring.request",
        (
            Key("DestinationName", Kind.TEXT, "Name of the device to share it with."),
            Key("DestinationDeviceID", Kind.TEXT, "Its hardware address instead."),
            Key(
                "ScanTime",
                Kind.INTEGER,
                "Seconds to look for it.",
                bounds=(10, 300),
            ),
            Key("Password", Kind.SECRET, "The password for sharing."),
        ),
        any_of=("DestinationName", "DestinationDeviceID"),
    ),
    Known("StopMirroring", "Stop sharing the screen.", "mirroring.stop"),
    Known("EnableRemoteDesktop", "Turn Remote Desktop of a Mac on.", "remotedesktop.enable"),
    Known("DisableRemoteDesktop", "Turn Remote Desktop of a Mac off.", "remotedesktop.disable"),
    Known(
        "RefreshCellularPlans",
        "Look for the cellular plan of an eSIM.",
        "device.esim",
        (Key("eSIMServerURL", Kind.TEXT, "URL of the carrier's eSIM server.", required=True),),
    ),
    Known(
        "TriggerEnhancedLogCollection",
        "Collect logs for AppleCare.",
        "trigger.enhanced.log.collection",
        (Key("AppleCareToken", Kind.TEXT, "The token from AppleCare.", required=True),),
    ),
    Known(
        "CancelEnhancedLogCollection",
        "Stop collecting logs for AppleCare.",
        "cancel.enhanced.log.collection",
    ),
)
