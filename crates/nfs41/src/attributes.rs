//! Attributes of files and file systems: RFC 8881, section 5. The server sends only those that are requested.

use std::{
    ops::BitOr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::BytesMut;

use crate::{
    error::{Error, Result},
    xdr::{Decoder, Encode},
};

/// Maximum length of `owner` and `owner_group`. A longer one is an invalid reply.
const MAX_OWNER_BYTES: usize = 1024;

/// A set of attributes to request, by their names in RFC 8881, sections 5.8 and 5.9. Combine sets with `|`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct AttributeMask(pub(crate) [u32; 2]);

impl AttributeMask {
    /// No attributes.
    pub const NONE: Self = Self([0, 0]);
    /// The type of the object.
    pub const TYPE: Self = Self::bit(1);
    /// A number that changes with every change of the object.
    pub const CHANGE: Self = Self::bit(3);
    /// Size in bytes.
    pub const SIZE: Self = Self::bit(4);
    /// Identifier of the file system.
    pub const FSID: Self = Self::bit(8);
    /// Lease time of the server.
    pub const LEASE_TIME: Self = Self::bit(10);
    /// The error with which the server cannot read the other attributes of a directory entry.
    pub(crate) const RDATTR_ERROR: Self = Self::bit(11);
    /// Number that identifies the file in its file system.
    pub const FILEID: Self = Self::bit(20);
    pub(crate) const MAXFILESIZE: Self = Self::bit(27);
    pub(crate) const MAXNAME: Self = Self::bit(29);
    pub(crate) const MAXREAD: Self = Self::bit(30);
    pub(crate) const MAXWRITE: Self = Self::bit(31);
    /// Permissions.
    pub const MODE: Self = Self::bit(33);
    /// Number of hard links.
    pub const NUMLINKS: Self = Self::bit(35);
    /// Owner.
    pub const OWNER: Self = Self::bit(36);
    /// Group.
    pub const OWNER_GROUP: Self = Self::bit(37);
    pub(crate) const SPACE_AVAIL: Self = Self::bit(42);
    pub(crate) const SPACE_TOTAL: Self = Self::bit(44);
    /// Allocated bytes.
    pub const SPACE_USED: Self = Self::bit(45);
    /// Time of the last access.
    pub const TIME_ACCESS: Self = Self::bit(47);
    /// Time of the last change of the metadata.
    pub const TIME_METADATA: Self = Self::bit(52);
    /// Time of the last change of the content.
    pub const TIME_MODIFY: Self = Self::bit(53);

    const fn bit(number: u32) -> Self {
        match number {
            0..32 => Self([1 << number, 0]),
            _ => Self([0, 1 << (number - 32)]),
        }
    }

    /// The union of two sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self([self.0[0] | other.0[0], self.0[1] | other.0[1]])
    }

    /// Type, change, size, file ID, mode, links and modification time.
    pub const STAT: Self = Self::TYPE
        .union(Self::CHANGE)
        .union(Self::SIZE)
        .union(Self::FILEID)
        .union(Self::MODE)
        .union(Self::NUMLINKS)
        .union(Self::TIME_MODIFY);
    pub(crate) const LIMITS: Self = Self::LEASE_TIME
        .union(Self::MAXFILESIZE)
        .union(Self::MAXNAME)
        .union(Self::MAXREAD)
        .union(Self::MAXWRITE)
        .union(Self::SPACE_AVAIL)
        .union(Self::SPACE_TOTAL);
}

impl BitOr for AttributeMask {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

/// The type of an object (`nfs_ftype4`).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, socket, FIFO, attribute directory or named attribute.
    Other,
}

impl FileType {
    /// The number in `nfs_ftype4`. `Other` has several.
    fn number(self) -> u32 {
        match self {
            Self::File => 1,
            Self::Directory => 2,
            Self::Symlink => 5,
            Self::Other => 0,
        }
    }
}

/// A time (`nfstime4`).
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Time {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub seconds: i64,
    /// 0 to 999,999,999, added to the seconds.
    pub nanoseconds: u32,
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Self {
        let whole = |since: Duration| i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Self { seconds: whole(since), nanoseconds: since.subsec_nanos() },
            Err(before) => match before.duration() {
                before if before.subsec_nanos() == 0 => Self { seconds: -whole(before), nanoseconds: 0 },
                before => Self { seconds: -whole(before) - 1, nanoseconds: 1_000_000_000 - before.subsec_nanos() },
            },
        }
    }
}

/// Attributes of an object. An attribute is `None` if it was not requested or the server does not have it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Attributes {
    /// The type of the object.
    pub file_type: Option<FileType>,
    /// A number that changes with every change of the object.
    pub change: Option<u64>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Major and minor identifier of the file system.
    pub fsid: Option<(u64, u64)>,
    /// Number that identifies the file in its file system.
    pub fileid: Option<u64>,
    /// Permissions, 12 bits.
    pub mode: Option<u32>,
    /// Number of hard links.
    pub numlinks: Option<u32>,
    /// Owner as the server spells it: a decimal number, or a name with a domain.
    pub owner: Option<Box<[u8]>>,
    /// Group as the server spells it.
    pub owner_group: Option<Box<[u8]>>,
    /// Allocated bytes.
    pub space_used: Option<u64>,
    /// Time of the last access.
    pub time_access: Option<Time>,
    /// Time of the last change of the metadata.
    pub time_metadata: Option<Time>,
    /// Time of the last change of the content.
    pub time_modify: Option<Time>,
    pub(crate) limits: FsLimits,
}

impl Attributes {
    /// The lease time in seconds, if [`AttributeMask::LEASE_TIME`] was requested and the server sends it.
    pub fn lease_seconds(&self) -> Option<u32> {
        self.limits.lease
    }
}

/// Limits of a server and its file system.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FsLimits {
    /// Lease time in seconds.
    pub lease: Option<u32>,
    pub max_file_size: Option<u64>,
    pub max_name_bytes: Option<u32>,
    pub max_read_bytes: Option<u64>,
    pub max_write_bytes: Option<u64>,
    pub space_available: Option<u64>,
    pub space_total: Option<u64>,
}

/// Reads a `fattr4`: a bitmap, and the values of its attributes in the order of their numbers.
pub(crate) fn decode(answer: &mut Decoder) -> Result<Attributes> {
    let bitmap = answer.bitmap()?;
    let mut values = Decoder(answer.opaque(usize::MAX)?);
    let mut found = Attributes::default();
    for (word, mut bits) in (0..).step_by(32).zip(bitmap) {
        while bits != 0 {
            let bit = bits.trailing_zeros();
            bits &= bits - 1;
            value(&mut found, word + bit, &mut values)?;
        }
    }
    match values.is_empty() {
        true => Ok(found),
        false => Err(Error::Protocol("the values of attributes are longer than their bitmap says")),
    }
}

fn value(found: &mut Attributes, number: u32, from: &mut Decoder) -> Result<()> {
    match number {
        1 => {
            found.file_type = Some(match from.word()? {
                1 => FileType::File,
                2 => FileType::Directory,
                5 => FileType::Symlink,
                _ => FileType::Other,
            });
        }
        3 => found.change = Some(from.long()?),
        4 => found.size = Some(from.long()?),
        8 => found.fsid = Some((from.long()?, from.long()?)),
        10 => found.limits.lease = Some(from.word()?),
        // The other attributes are missing, which is all that callers need.
        11 => drop(from.word()?),
        20 => found.fileid = Some(from.long()?),
        27 => found.limits.max_file_size = Some(from.long()?),
        29 => found.limits.max_name_bytes = Some(from.word()?),
        30 => found.limits.max_read_bytes = Some(from.long()?),
        31 => found.limits.max_write_bytes = Some(from.long()?),
        33 => found.mode = Some(from.word()?),
        35 => found.numlinks = Some(from.word()?),
        36 => found.owner = Some(from.opaque(MAX_OWNER_BYTES)?[..].into()),
        37 => found.owner_group = Some(from.opaque(MAX_OWNER_BYTES)?[..].into()),
        42 => found.limits.space_available = Some(from.long()?),
        44 => found.limits.space_total = Some(from.long()?),
        45 => found.space_used = Some(from.long()?),
        47 => found.time_access = Some(time(from)?),
        52 => found.time_metadata = Some(time(from)?),
        53 => found.time_modify = Some(time(from)?),
        _ => return Err(Error::Protocol("the server sent an attribute that was not requested")),
    }
    Ok(())
}

fn time(from: &mut Decoder) -> Result<Time> {
    #[allow(clippy::cast_possible_wrap, reason = "XDR transfers it as its two's complement")]
    let (seconds, nanoseconds) = (from.long()? as i64, from.word()?);
    match nanoseconds {
        0..1_000_000_000 => Ok(Time { seconds, nanoseconds }),
        _ => Err(Error::Protocol("the nanoseconds of a time exceed a second")),
    }
}

/// Attributes to set. `None` leaves an attribute as it is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SetAttributes {
    /// Size in bytes: truncates or extends a file.
    pub size: Option<u64>,
    /// Permissions, 12 bits.
    pub mode: Option<u32>,
    /// Owner as the server spells it.
    pub owner: Option<Box<[u8]>>,
    /// Group as the server spells it.
    pub owner_group: Option<Box<[u8]>>,
    /// Time of the last access.
    pub time_access: Option<Time>,
    /// Time of the last change of the content.
    pub time_modify: Option<Time>,
}

impl SetAttributes {
    /// Only permissions.
    pub fn mode(mode: u32) -> Self {
        Self { mode: Some(mode), ..Self::default() }
    }

    /// Only the modification time.
    pub fn modified(time: Time) -> Self {
        Self { time_modify: Some(time), ..Self::default() }
    }

    pub(crate) fn encode(&self, buffer: &mut BytesMut) {
        const CLIENT_TIME: u32 = 1;
        let mut bitmap = [0; 2];
        let mut values = BytesMut::with_capacity(48);
        if let Some(size) = self.size {
            bitmap[0] |= 1 << 4;
            values.long(size);
        }
        if let Some(mode) = self.mode {
            bitmap[1] |= 1 << 1;
            values.word(mode & 0o7777);
        }
        for (bit, name) in [(4, &self.owner), (5, &self.owner_group)] {
            if let Some(name) = name {
                bitmap[1] |= 1 << bit;
                values.opaque(name);
            }
        }
        for (bit, time) in [(16, self.time_access), (22, self.time_modify)] {
            if let Some(time) = time {
                bitmap[1] |= 1 << bit;
                #[allow(clippy::cast_sign_loss, reason = "XDR transfers it as its two's complement")]
                values.word(CLIENT_TIME).long(time.seconds as u64).word(time.nanoseconds);
            }
        }
        buffer.bitmap(bitmap).opaque(&values);
    }
}

/// Owner and group of a file, as the server spells them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Ownership {
    pub owner: Box<[u8]>,
    pub owner_group: Box<[u8]>,
}

impl Ownership {
    /// `None` if the server does not send both.
    pub fn of(found: &Attributes) -> Option<Self> {
        Some(Self { owner: found.owner.clone()?, owner_group: found.owner_group.clone()? })
    }
}

/// The attributes that VERIFY compares.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Expected<'a> {
    pub file_type: Option<FileType>,
    pub size: Option<u64>,
    pub mode: Option<u32>,
    pub owner: Option<&'a [u8]>,
    pub owner_group: Option<&'a [u8]>,
}

impl Expected<'_> {
    /// The attributes of each VERIFY. NFS-Ganesha (4.3, 6.2) does not compare correctly what follows a name whose length is not
    /// a multiple of four, so a name is the last attribute of its VERIFY.
    pub fn parts(&self) -> impl Iterator<Item = Self> {
        let group_only = Self { owner_group: self.owner_group, ..Self::default() };
        let alone = (self.owner.is_some() && self.owner_group.is_some()).then_some(group_only);
        let first = if alone.is_some() { Self { owner_group: None, ..*self } } else { *self };
        std::iter::once(first).chain(alone)
    }

    pub fn encode(&self, buffer: &mut BytesMut) {
        let mut bitmap = [0; 2];
        let mut values = BytesMut::with_capacity(64);
        if let Some(kind) = self.file_type {
            bitmap[0] |= 1 << 1;
            values.word(kind.number());
        }
        if let Some(size) = self.size {
            bitmap[0] |= 1 << 4;
            values.long(size);
        }
        if let Some(mode) = self.mode {
            bitmap[1] |= 1 << 1;
            values.word(mode);
        }
        for (bit, name) in [(4, self.owner), (5, self.owner_group)] {
            if let Some(name) = name {
                bitmap[1] |= 1 << bit;
                values.opaque(name);
            }
        }
        buffer.bitmap(bitmap).opaque(&values);
    }
}
