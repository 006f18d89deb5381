"""
Commands that ask a device for something.
"""

from __future__ import annotations

from typing import Final

from nanomdm.mdm.catalogue.keys import Key, Kind, Known

#: What C{DeviceInformation} asks for: all that says something about any device.
#: Devices pass over what they do not have.  Queries that Apple has deprecated are left
#: out (C{ServiceSubscriptions} tells the same), and C{DevicePropertiesAttestation},
#: since devices limit how often they answer it.
QUERIES: Final = (
    *("UDID", "ProvisioningUDID", "DeviceID", "SerialNumber", "DeviceName", "LocalHostName"),
    *("HostName", "ModelName", "Model", "ModelNumber", "ProductName", "IsAppleSilicon"),
    *("OSVersion", "BuildVersion", "SupplementalOSVersionExtra", "SupplementalBuildVersion"),
    *("SoftwareUpdateDeviceID", "OSUpdateSettings", "DeviceCapacity", "AvailableDeviceCapacity"),
    *("BatteryLevel", "TimeZone", "WiFiMAC", "BluetoothMAC", "EthernetMAC"),
    *("CellularTechnology", "ModemFirmwareVersion", "ServiceSubscriptions", "DataRoamingEnabled"),
    *("PersonalHotspotEnabled", "IsNetworkTethered", "IsRoaming"),
    *("IsSupervised", "IsMultiUser", "AwaitingConfiguration", "IsMDMLostModeEnabled"),
    *("IsDeviceLocatorServiceEnabled", "IsActivationLockSupported", "IsDoNotDisturbInEffect"),
    *("EASDeviceIdentifier", "IsCloudBackupEnabled", "LastCloudBackupDate"),
    *("iTunesStoreAccountIsActive", "iTunesStoreAccountHash", "OrganizationInfo", "MDMOptions"),
    *("SystemIntegrityProtectionEnabled", "PINRequiredForEraseDevice", "PINRequiredForDeviceLock"),
    *("SupportsLOMDevice", "SupportsiOSAppInstalls", "ActiveManagedUsers"),
    *("AutoSetupAdminAccounts", "MaximumResidentUsers", "EstimatedResidentUsers", "QuotaSize"),
    *("ResidentUsers", "UserSessionTimeout", "TemporarySessionTimeout", "TemporarySessionOnly"),
    *("ManagedAppleIDDefaultDomains", "OnlineAuthenticationGracePeriod", "PushToken"),
    *("DiagnosticSubmissionEnabled", "AppAnalyticsEnabled", "AccessibilitySettings"),
)

_MANAGED_ONLY: Final = Key("ManagedOnly", Kind.BOOLEAN, "Only what MDM has installed.")
_IDENTIFIERS: Final = Key("Identifiers", Kind.TEXTS, "Only the app with this bundle identifier.")
_THESE: Final = Key("Identifiers", Kind.TEXTS, "Bundle identifier of a managed app.", required=True)

INFORMATION: Final = (
    Known(
        "DeviceInformation",
        "Ask for the serial number, the versions, capacities and much else.",
        "information.device",
        (
            Key("Queries", Kind.TEXTS, "What to ask for instead of everything.", default=QUERIES),
            Key(
                "DeviceAttestationNonce",
                Kind.DATA,
                "At most 32 bytes, for the query DevicePropertiesAttestation.",
            ),
        ),
    ),
    Known("SecurityInfo", "Ask about encryption, passcode and firewall.", "information.security"),
    Known(
        "ContentCachingInformation",
        "Ask a Mac how its content cache is.",
        "information.contentcaching",
    ),
    Known("ProfileList", "Ask for the installed profiles.", "profile.list", (_MANAGED_ONLY,)),
    Known(
        "ProvisioningProfileList",
        "Ask for the installed provisioning profiles.",
        "profile.provisioning.list",
        (_MANAGED_ONLY,),
    ),
    Known(
        "CertificateList",
        "Ask for the installed certificates.",
        "certificate.list",
        (_MANAGED_ONLY,),
    ),
    Known(
        "InstalledApplicationList",
        "Ask for the installed apps.",
        "application.installed.list",
        (
            _IDENTIFIERS,
            Key("ManagedAppsOnly", Kind.BOOLEAN, "Only managed apps."),
            Key("Items", Kind.TEXTS, "What to tell of each app, such as Name or Version."),
        ),
    ),
    Known(
        "ManagedApplicationList",
        "Ask how the managed apps are.",
        "application.managed.list",
        (_IDENTIFIERS,),
    ),
    Known(
        "ManagedApplicationAttributes",
        "Ask for the attributes of managed apps.",
        "managed.application.attributes",
        (_THESE,),
    ),
    Known(
        "ManagedApplicationConfiguration",
        "Ask for the configuration of managed apps.",
        "managed.application.configuration",
        (_THESE,),
    ),
    Known(
        "ManagedApplicationFeedback",
        "Ask for the feedback of managed apps.",
        "managed.application.feedback",
        (_THESE, Key("DeleteFeedback", Kind.BOOLEAN, "Delete the feedback once it is read.")),
    ),
    Known("ManagedMediaList", "Ask for the managed books.", "media.managed.list"),
    Known(
        "Restrictions",
        "Ask which restrictions hold.",
        "device.restrictions.list",
        (Key("ProfileRestrictions", Kind.BOOLEAN, "Tell them of each profile too."),),
    ),
    Known(
        "NSExtensionMappings",
        "Ask for the extensions that a user of a Mac has.",
        "application.extensions.mappings",
    ),
    Known(
        "ActiveNSExtensions",
        "Ask for the active extensions of a user of a Mac.",
        "application.extensions.listactive",
        (Key("FilterExtensionPoints", Kind.TEXTS, "Only those for this extension point."),),
    ),
    Known("AvailableOSUpdates", "Ask which system updates there are.", "system.update.available"),
    Known("OSUpdateStatus", "Ask how system updates are getting on.", "system.update.status"),
    Known("UserList", "Ask for the users who have an account.", "user.list"),
    Known(
        "ActivationLockBypassCode",
        "Ask for the code that bypasses Activation Lock.",
        "device.activationlock.bypasscode",
    ),
    Known("DeviceLocation", "Ask where a device in Lost Mode is.", "device.lostmode.location"),
    Known("LOMSetupRequest", "Ask a Mac for what lights-out management needs.", "lom.setuprequest"),
)
