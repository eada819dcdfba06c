//! What a server's status is for whoever asked the service: whose reason it is, and which answer. The one table of it;
//! `docs/reference/nfs41.md` shows the same.

use std::io;

use nfs41::{Op, Status};

use files::Error;

/// What a status says of the request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Meaning {
    NotFound,
    NotADirectory,
    IsADirectory,
    NotAFile,
    LinkInPath,
    BadName,
    BadCursor,
    TooLarge,
    NoSpace,
    Denied,
    Unsupported,
    Locked,
    Busy,
    Uncertain,
    /// The target's own failure, or a mistake of this client: nothing that another request would put right.
    Failed,
}

/// Statuses with the same meaning, of these operations; of all, where none is named.
struct Row {
    meaning: Meaning,
    statuses: &'static [Status],
    ops: &'static [Op],
}

const fn of_all(meaning: Meaning, statuses: &'static [Status]) -> Row {
    Row { meaning, statuses, ops: &[] }
}

const fn of(ops: &'static [Op], meaning: Meaning, statuses: &'static [Status]) -> Row {
    Row { meaning, statuses, ops }
}

/// Operations that take a name of the request's path.
const NAMES: &[Op] = &[Op::LOOKUP, Op::OPEN, Op::CREATE, Op::REMOVE, Op::RENAME, Op::LINK];

/// Operations that take nothing of a request: what they are refused with is not its fault.
const SETUP: &[Op] = &[
    Op::EXCHANGE_ID,
    Op::CREATE_SESSION,
    Op::RECLAIM_COMPLETE,
    Op::SEQUENCE,
    Op::DESTROY_SESSION,
    Op::DESTROY_CLIENTID,
    Op::PUTROOTFH,
];

/// The first row with the status and the operation holds.
const TABLE: &[Row] = &[
    of_all(Meaning::NotFound, &[Status::NOENT]),
    of_all(Meaning::NotADirectory, &[Status::NOTDIR]),
    of_all(Meaning::IsADirectory, &[Status::ISDIR, Status::NOTEMPTY]),
    // RFC 8881, section 18.26.3: a directory has the name that a file is to have.
    of(&[Op::RENAME], Meaning::IsADirectory, &[Status::EXIST]),
    of(&[Op::READ, Op::WRITE], Meaning::NotAFile, &[Status::INVAL]),
    of_all(Meaning::NotAFile, &[Status::WRONG_TYPE]),
    of_all(Meaning::LinkInPath, &[Status::SYMLINK]),
    // RFC 8881, section 14.5: INVAL is said of what is not UTF-8.
    of(NAMES, Meaning::BadName, &[Status::INVAL]),
    of_all(Meaning::BadName, &[Status::BADCHAR, Status::BADNAME, Status::NAMETOOLONG]),
    of(&[Op::READDIR], Meaning::BadCursor, &[Status::NOT_SAME]),
    of_all(Meaning::BadCursor, &[Status::BAD_COOKIE]),
    of_all(Meaning::TooLarge, &[Status::FBIG]),
    of_all(Meaning::NoSpace, &[Status::NOSPC, Status::DQUOT, Status::MLINK]),
    of_all(Meaning::Denied, &[Status::PERM, Status::ACCESS, Status::ROFS, Status::XDEV, Status::WRONGSEC]),
    of_all(Meaning::Unsupported, &[Status::NOTSUPP, Status::ATTRNOTSUPP, Status::LOCK_NOTSUPP]),
    // Other clients have it, or have changed it meanwhile.
    of_all(
        Meaning::Locked,
        &[
            Status::DENIED,
            Status::LOCKED,
            Status::SHARE_DENIED,
            Status::FILE_OPEN,
            Status::DEADLOCK,
            Status::EXIST,
            Status::NOT_SAME,
        ],
    ),
    of_all(Meaning::Busy, &[Status::DELAY, Status::GRACE]),
    of_all(Meaning::Uncertain, &[Status::RETRY_UNCACHED_REP]),
    // What the server cannot do, or does not have any more. STALE is one of these, since what a path names is looked up
    // anew many times before.
    of_all(
        Meaning::Failed,
        &[
            Status::IO,
            Status::NXIO,
            Status::SERVERFAULT,
            Status::STALE,
            Status::BADHANDLE,
            Status::FHEXPIRED,
            Status::MOVED,
            Status::LEASE_MOVED,
            Status::WRONG_CRED,
            Status::MINOR_VERS_MISMATCH,
            Status::OP_ILLEGAL,
            Status::ADMIN_REVOKED,
        ],
    ),
    // A session that is lost, and what was open or locked in it.
    of_all(
        Meaning::Failed,
        &[
            Status::EXPIRED,
            Status::CLID_INUSE,
            Status::CLIENTID_BUSY,
            Status::STALE_CLIENTID,
            Status::STALE_STATEID,
            Status::OLD_STATEID,
            Status::BAD_STATEID,
            Status::BADSESSION,
            Status::DEADSESSION,
            Status::BADSLOT,
            Status::BAD_HIGH_SLOT,
            Status::CONN_NOT_BOUND_TO_SESSION,
            Status::SEQ_MISORDERED,
            Status::SEQ_FALSE_RETRY,
        ],
    ),
    // Mistakes of the client, which no request can make or put right.
    of_all(
        Meaning::Failed,
        &[
            Status::INVAL,
            Status::TOOSMALL,
            Status::BADTYPE,
            Status::SAME,
            Status::NOFILEHANDLE,
            Status::BAD_SEQID,
            Status::LOCK_RANGE,
            Status::RESTOREFH,
            Status::NO_GRACE,
            Status::RECLAIM_BAD,
            Status::RECLAIM_CONFLICT,
            Status::BADXDR,
            Status::LOCKS_HELD,
            Status::OPENMODE,
            Status::BADOWNER,
            Status::BAD_RANGE,
            Status::BAD_SESSION_DIGEST,
            Status::COMPLETE_ALREADY,
            Status::SEQUENCE_POS,
            Status::REQ_TOO_BIG,
            Status::REP_TOO_BIG,
            Status::REP_TOO_BIG_TO_CACHE,
            Status::UNSAFE_COMPOUND,
            Status::TOO_MANY_OPS,
            Status::OP_NOT_IN_SESSION,
            Status::HASH_ALG_UNSUPP,
            Status::ENCR_ALG_UNSUPP,
            Status::NOT_ONLY_OP,
        ],
    ),
    // Of callbacks, delegations and layouts, none of which the client asks for.
    of_all(
        Meaning::Failed,
        &[
            Status::CB_PATH_DOWN,
            Status::BACK_CHAN_BUSY,
            Status::DELEG_ALREADY_WANTED,
            Status::DIRDELEG_UNAVAIL,
            Status::REJECT_DELEG,
            Status::RETURNCONFLICT,
            Status::DELEG_REVOKED,
            Status::BADIOMODE,
            Status::BADLAYOUT,
            Status::LAYOUTTRYLATER,
            Status::LAYOUTUNAVAILABLE,
            Status::NOMATCHING_LAYOUT,
            Status::RECALLCONFLICT,
            Status::UNKNOWN_LAYOUTTYPE,
            Status::PNFS_IO_HOLE,
            Status::PNFS_NO_LAYOUT,
        ],
    ),
];

fn meaning(op: Op, status: Status) -> Meaning {
    let of_the_request = |row: &&Row| matches!(row.meaning, Meaning::Busy | Meaning::Uncertain) || !SETUP.contains(&op);
    let is_it = |row: &&Row| row.statuses.contains(&status) && (row.ops.is_empty() || row.ops.contains(&op));
    // A number that the RFC does not have.
    TABLE.iter().filter(of_the_request).find(is_it).map_or(Meaning::Failed, |row| row.meaning)
}

impl Meaning {
    fn error(self, err: impl Into<io::Error>) -> Error {
        match self {
            Self::NotFound => Error::NotFound,
            Self::NotADirectory => Error::NotADirectory,
            Self::IsADirectory => Error::IsADirectory,
            Self::NotAFile => Error::NotAFile,
            Self::LinkInPath => Error::LinkInPath,
            Self::BadName => Error::BadName(err.into()),
            Self::BadCursor => Error::BadCursor,
            Self::TooLarge => Error::AboveLimit(err.into()),
            Self::NoSpace => Error::NoSpace,
            Self::Denied => Error::Denied(err.into()),
            Self::Unsupported => Error::Unsupported(err.into()),
            Self::Locked => Error::Locked,
            Self::Busy => Error::Busy,
            Self::Uncertain => Error::Uncertain,
            Self::Failed => Error::Failed(err.into()),
        }
    }
}

/// What an error of the NFS client is for the caller of [`files::Files`].
pub fn error_of(err: nfs41::Error) -> Error {
    match err {
        nfs41::Error::Status { op, status } => meaning(op, status).error(err),
        // Nothing was sent.
        nfs41::Error::Unreachable { .. } | nfs41::Error::Busy(_) | nfs41::Error::Closed => Error::Busy,
        nfs41::Error::BadPath(_) => Meaning::BadName.error(err),
        nfs41::Error::BadInput(_) => Meaning::TooLarge.error(err),
        nfs41::Error::Deadline(_) => Error::Deadline,
        nfs41::Error::Uncertain(_) => Error::Uncertain,
        nfs41::Error::Pending(_) => Error::Pending,
        nfs41::Error::ConditionFailed => Error::PreconditionFailed,
        _ => Error::Failed(err.into()),
    }
}

/// Every row of the table but those of the target's own failures: the error, and the names of its statuses with the
/// operations that they are of. For the documentation.
pub fn rows() -> impl Iterator<Item = (Error, String)> {
    TABLE.iter().filter(|row| row.meaning != Meaning::Failed).map(|row| {
        let names = row.statuses.iter().filter_map(|status| status.name()?.strip_prefix("NFS4ERR_"));
        let mut names = names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        if !row.ops.is_empty() {
            let ops: Vec<_> = row.ops.iter().map(|op| format!("{op:?}")).collect();
            names += &format!(" (of {})", ops.join(", "));
        }
        (row.meaning.error(io::Error::other("an example")), names)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// RFC 8881, section 15.1, but for 0.
    fn in_the_rfc() -> BTreeSet<u32> {
        let small = [1, 2, 5, 6, 13, 17, 18, 20, 21, 22, 27, 28, 30, 31, 63, 66, 69, 70];
        // 10018 (RESOURCE) is not of 4.1; 10002 and 10073 are not given.
        let large = (10_001..=10_087).filter(|number| ![10_002, 10_018, 10_073].contains(number));
        small.into_iter().chain(large).collect()
    }

    #[test]
    fn every_status_of_the_rfc_is_in_the_table_for_every_operation() {
        assert_eq!(Status::ALL.iter().map(|status| status.0).collect::<BTreeSet<_>>(), in_the_rfc());
        let for_all: Vec<_> = TABLE.iter().filter(|row| row.ops.is_empty()).flat_map(|row| row.statuses).collect();
        let once: BTreeSet<_> = for_all.iter().map(|status| status.0).collect();
        assert_eq!((&once, for_all.len()), (&in_the_rfc(), once.len()), "each once, whatever the operation");
    }
}
