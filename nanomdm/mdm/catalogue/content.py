"""
Commands about what is installed on a device: profiles, apps, books, the system.
"""

from __future__ import annotations

from typing import Final

from nanomdm.mdm.catalogue.keys import Care, Key, Kind, Known

_APP: Final = Key("Identifier", Kind.TEXT, "The app's bundle identifier.", required=True)
_STORE_ID: Final = Key("iTunesStoreID", Kind.INTEGER, "Its number in the store.")
_BOOK: Final = Key(
    "MediaType", Kind.TEXT, "What it is.", choices=("Book",), default="Book", required=True
)
_MANIFEST_URL: Final = Key("ManifestURL", Kind.URL, "Where the app's manifest is.")
_CONFIGURATION: Final = Key(
    "Configuration", Kind.DICTIONARY, "Property list with the app's configuration."
)
_CHANGE: Final = Key(
    "ChangeManagementState",
    Kind.TEXT,
    "Manage the app even if its user has installed it.",
    choices=("Managed",),
)
_AS_MANAGED: Final = Key("InstallAsManaged", Kind.BOOLEAN, "On a Mac: manage the app.")
_IOS_APP: Final = Key("iOSApp", Kind.BOOLEAN, "On a Mac: it is an app for iOS.")

CONTENT: Final = (
    Known(
        "InstallProfile",
        "Install a configuration profile.",
        "profile.install",
        (
            Key(
                "Payload",
                Kind.PROFILE,
                "The profile (.mobileconfig), signed or encrypted or not.",
                required=True,
            ),
        ),
    ),
    Known(
        "RemoveProfile",
        "Remove a configuration profile.",
        "profile.remove",
        (Key("Identifier", Kind.TEXT, "Its PayloadIdentifier.", required=True),),
        care=Care.SEVERAL,
    ),
    Known(
        "InstallProvisioningProfile",
        "Install a provisioning profile.",
        "profile.provisioning.install",
        (Key("ProvisioningProfile", Kind.DATA, "The profile.", required=True),),
    ),
    Known(
        "RemoveProvisioningProfile",
        "Remove a provisioning profile.",
        "profile.provisioning.remove",
        # On the command line --uuid is the command's own.
        (Key("UUID", Kind.TEXT, "Its UUID.", required=True, option="profile-uuid"),),
        care=Care.SEVERAL,
    ),
    Known(
        "InstallApplication",
        "Install or update an app.",
        "application.install",
        (
            _STORE_ID,
            Key("Identifier", Kind.TEXT, "The app's bundle identifier."),
            _MANIFEST_URL,
            Key(
                "Options.PurchaseMethod",
                Kind.INTEGER,
                "0: free or with a redemption code, 1: assigned to devices or users (VPP).",
                bounds=(0, 1),
            ),
            Key(
                "ManagementFlags",
                Kind.INTEGER,
                "1: remove the app with the MDM profile, 4: no backup of its data, 5: both.",
                choices=("1", "4", "5"),
            ),
            _CONFIGURATION,
            Key("Attributes", Kind.DICTIONARY, "Property list with the app's attributes."),
            _CHANGE,
            _AS_MANAGED,
            _IOS_APP,
        ),
        any_of=("iTunesStoreID", "Identifier", "ManifestURL"),
    ),
    Known(
        "InstallEnterpriseApplication",
        "Install an app or a package of one's own on a Mac.",
        "application.install.enterprise",
        (
            _MANIFEST_URL,
            Key("Manifest", Kind.DICTIONARY, "Property list: the manifest itself."),
            Key(
                "ManifestURLPinningCerts",
                Kind.CERTIFICATES,
                "Certificate that the manifest's server must have.",
            ),
            Key(
                "PinningRevocationCheckRequired",
                Kind.BOOLEAN,
                "Insist on proof that pinned certificates are not revoked.",
            ),
            _AS_MANAGED,
            Key(
                "ManagementFlags",
                Kind.INTEGER,
                "1: remove the app with the MDM profile.",
                choices=("1",),
            ),
            _CONFIGURATION,
            _CHANGE,
            _IOS_APP,
        ),
        any_of=("ManifestURL", "Manifest"),
        needs=(
            ("ManifestURLPinningCerts", "ManifestURL"),
            ("PinningRevocationCheckRequired", "ManifestURLPinningCerts"),
        ),
    ),
    Known(
        "RemoveApplication",
        "Remove a managed app and its data.",
        "application.remove",
        (_APP,),
        care=Care.SEVERAL,
    ),
    Known(
        "ApplyRedemptionCode",
        "Finish the installation of an app that needs a redemption code.",
        "application.redemptioncode",
        (_APP, Key("RedemptionCode", Kind.TEXT, "The code.", required=True)),
    ),
    Known(
        "ValidateApplications",
        "Validate the provisioning profiles of enterprise apps.",
        "application.validate",
        (Key("Identifiers", Kind.TEXTS, "Only those of the app with this bundle identifier."),),
    ),
    Known(
        "InviteToProgram",
        "Invite a user to the Volume Purchase Program.",
        "application.invitetoprogram",
        (
            Key(
                "ProgramID",
                Kind.TEXT,
                "Which program.",
                choices=("com.apple.cloudvpp",),
                default="com.apple.cloudvpp",
                required=True,
            ),
            Key("InvitationURL", Kind.TEXT, "URL of the invitation.", required=True),
        ),
    ),
    Known(
        "InstallMedia",
        "Install or update a book.",
        "media.install",
        (
            _BOOK,
            _STORE_ID,
            Key("MediaURL", Kind.TEXT, "Where the book is, if not in the store."),
            Key("PersistentID", Kind.TEXT, "Its identifier, such as com.example.manual."),
            Key("Kind", Kind.TEXT, "Its format.", choices=("pdf", "epub", "ibooks")),
            Key("Version", Kind.TEXT, "Its version."),
            Key("Author", Kind.TEXT, "Its author."),
            Key("Title", Kind.TEXT, "Its title."),
        ),
        any_of=("iTunesStoreID", "MediaURL"),
    ),
    Known(
        "RemoveMedia",
        "Remove a book.",
        "media.remove",
        (
            _BOOK,
            # Apple has it as a string here, and as an integer where it is installed.
            Key("iTunesStoreID", Kind.TEXT, "Its number in the store."),
            Key("PersistentID", Kind.TEXT, "Its identifier, such as com.example.manual."),
        ),
        care=Care.SEVERAL,
        any_of=("iTunesStoreID", "PersistentID"),
    ),
    Known(
        "ScheduleOSUpdateScan",
        "Let a Mac look for system updates.",
        "system.update.scan",
        (Key("Force", Kind.BOOLEAN, "At once, not when it suits the system."),),
    ),
    Known(
        "ScheduleOSUpdate",
        "Download or install a system update.",
        "system.update.schedule",
        (
            Key("Updates.0.ProductKey", Kind.TEXT, "The update, as AvailableOSUpdates names it."),
            Key("Updates.0.ProductVersion", Kind.TEXT, "The update's version instead."),
            Key(
                "Updates.0.InstallAction",
                Kind.TEXT,
                "What to do.",
                required=True,
                choices=(
                    "Default",
                    "DownloadOnly",
                    "InstallASAP",
                    "NotifyOnly",
                    "InstallLater",
                    "InstallForceRestart",
                ),
            ),
            Key(
                "Updates.0.MaxUserDeferrals",
                Kind.INTEGER,
                "How often the user can postpone it, with InstallLater on a Mac.",
                bounds=(0, None),
            ),
            Key(
                "Updates.0.Priority",
                Kind.TEXT,
                "How urgent the download is, on a Mac.",
                choices=("Low", "High"),
            ),
        ),
        care=Care.SEVERAL,
        any_of=("Updates.0.ProductKey", "Updates.0.ProductVersion"),
    ),
)
