//! Status codes: RFC 8881, section 15.1.

use std::{fmt, io::ErrorKind};

macro_rules! statuses {
    ($($number:literal $name:ident $kind:ident,)*) => {
        /// A status (`nfsstat4`). Displayed by its name in the RFC.
        #[derive(Clone, Copy, Eq, Hash, PartialEq)]
        pub struct Status(
            /// The number.
            pub u32,
        );

        impl Status {
            $(
                #[doc = concat!("`NFS4ERR_", stringify!($name), "`.")]
                pub const $name: Self = Self($number);
            )*

            /// All statuses but [`OK`](Self::OK).
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The name, such as `NFS4ERR_NOENT`; `None` if the RFC does not define the number.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    0 => Some("NFS4_OK"),
                    $($number => Some(concat!("NFS4ERR_", stringify!($name))),)*
                    _ => None,
                }
            }

            /// The closest kind of the standard library.
            pub fn kind(self) -> ErrorKind {
                match self.0 {
                    $($number => ErrorKind::$kind,)*
                    _ => ErrorKind::Other,
                }
            }
        }
    };
}

statuses! {
    1 PERM PermissionDenied,
    2 NOENT NotFound,
    5 IO Other,
    6 NXIO Other,
    13 ACCESS PermissionDenied,
    17 EXIST AlreadyExists,
    18 XDEV CrossesDevices,
    20 NOTDIR NotADirectory,
    21 ISDIR IsADirectory,
    22 INVAL InvalidInput,
    27 FBIG FileTooLarge,
    28 NOSPC StorageFull,
    30 ROFS ReadOnlyFilesystem,
    31 MLINK TooManyLinks,
    63 NAMETOOLONG InvalidFilename,
    66 NOTEMPTY DirectoryNotEmpty,
    69 DQUOT QuotaExceeded,
    70 STALE StaleNetworkFileHandle,
    10001 BADHANDLE InvalidInput,
    10003 BAD_COOKIE InvalidInput,
    10004 NOTSUPP Unsupported,
    10005 TOOSMALL InvalidInput,
    10006 SERVERFAULT Other,
    10007 BADTYPE InvalidInput,
    10008 DELAY ResourceBusy,
    10009 SAME Other,
    10010 DENIED WouldBlock,
    10011 EXPIRED StaleNetworkFileHandle,
    10012 LOCKED ResourceBusy,
    10013 GRACE ResourceBusy,
    10014 FHEXPIRED StaleNetworkFileHandle,
    10015 SHARE_DENIED PermissionDenied,
    10016 WRONGSEC PermissionDenied,
    10017 CLID_INUSE AddrInUse,
    10019 MOVED Unsupported,
    10020 NOFILEHANDLE InvalidInput,
    10021 MINOR_VERS_MISMATCH Unsupported,
    10022 STALE_CLIENTID ConnectionReset,
    10023 STALE_STATEID StaleNetworkFileHandle,
    10024 OLD_STATEID InvalidInput,
    10025 BAD_STATEID InvalidInput,
    10026 BAD_SEQID InvalidInput,
    10027 NOT_SAME Other,
    10028 LOCK_RANGE InvalidInput,
    10029 SYMLINK InvalidInput,
    10030 RESTOREFH InvalidInput,
    10031 LEASE_MOVED Unsupported,
    10032 ATTRNOTSUPP Unsupported,
    10033 NO_GRACE InvalidInput,
    10034 RECLAIM_BAD InvalidInput,
    10035 RECLAIM_CONFLICT InvalidInput,
    10036 BADXDR InvalidData,
    10037 LOCKS_HELD ResourceBusy,
    10038 OPENMODE PermissionDenied,
    10039 BADOWNER InvalidInput,
    10040 BADCHAR InvalidFilename,
    10041 BADNAME InvalidFilename,
    10042 BAD_RANGE InvalidInput,
    10043 LOCK_NOTSUPP Unsupported,
    10044 OP_ILLEGAL Unsupported,
    10045 DEADLOCK Deadlock,
    10046 FILE_OPEN ResourceBusy,
    10047 ADMIN_REVOKED PermissionDenied,
    10048 CB_PATH_DOWN Other,
    10049 BADIOMODE InvalidInput,
    10050 BADLAYOUT InvalidInput,
    10051 BAD_SESSION_DIGEST InvalidInput,
    10052 BADSESSION ConnectionReset,
    10053 BADSLOT InvalidInput,
    10054 COMPLETE_ALREADY InvalidInput,
    10055 CONN_NOT_BOUND_TO_SESSION ConnectionReset,
    10056 DELEG_ALREADY_WANTED Other,
    10057 BACK_CHAN_BUSY ResourceBusy,
    10058 LAYOUTTRYLATER ResourceBusy,
    10059 LAYOUTUNAVAILABLE Unsupported,
    10060 NOMATCHING_LAYOUT Other,
    10061 RECALLCONFLICT Other,
    10062 UNKNOWN_LAYOUTTYPE Unsupported,
    10063 SEQ_MISORDERED InvalidInput,
    10064 SEQUENCE_POS InvalidInput,
    10065 REQ_TOO_BIG InvalidInput,
    10066 REP_TOO_BIG InvalidInput,
    10067 REP_TOO_BIG_TO_CACHE InvalidInput,
    10068 RETRY_UNCACHED_REP Other,
    10069 UNSAFE_COMPOUND InvalidInput,
    10070 TOO_MANY_OPS InvalidInput,
    10071 OP_NOT_IN_SESSION InvalidInput,
    10072 HASH_ALG_UNSUPP Unsupported,
    10074 CLIENTID_BUSY ResourceBusy,
    10075 PNFS_IO_HOLE Other,
    10076 SEQ_FALSE_RETRY Other,
    10077 BAD_HIGH_SLOT InvalidInput,
    10078 DEADSESSION ConnectionReset,
    10079 ENCR_ALG_UNSUPP Unsupported,
    10080 PNFS_NO_LAYOUT Other,
    10081 NOT_ONLY_OP InvalidInput,
    10082 WRONG_CRED PermissionDenied,
    10083 WRONG_TYPE InvalidInput,
    10084 DIRDELEG_UNAVAIL Unsupported,
    10085 REJECT_DELEG Other,
    10086 RETURNCONFLICT Other,
    10087 DELEG_REVOKED Other,
}

impl Status {
    /// `NFS4_OK`.
    pub const OK: Self = Self(0);

    pub(crate) fn ok(self) -> bool {
        self == Self::OK
    }

    /// The operation was not executed, and should be retried.
    pub(crate) fn is_delay(self) -> bool {
        matches!(self, Self::DELAY | Self::GRACE)
    }

    /// As a status of SEQUENCE: the server does not have the session, and executes nothing in it.
    pub(crate) fn ends_session(self) -> bool {
        matches!(self, Self::BADSESSION | Self::DEADSESSION | Self::STALE_CLIENTID)
    }

    /// As a status of SEQUENCE: client and server disagree about the session, which the server may still have.
    pub(crate) fn retires_session(self) -> bool {
        matches!(
            self,
            Self::EXPIRED
                | Self::CONN_NOT_BOUND_TO_SESSION
                | Self::SEQ_MISORDERED
                | Self::BADSLOT
                | Self::BAD_HIGH_SLOT
        )
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "NFS status {}", self.0),
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
