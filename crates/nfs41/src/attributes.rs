//! Properties of files and of file systems: RFC 8881, section 5. Only those that are asked for travel.

use std::{
    ops::BitOr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::BytesMut;

use crate::{
    error::{Error, Result},
    xdr::{Decoder, Encode},
};

/// An owner's name is no longer.
const MAX_OWNER_BYTES: usize = 1024;

/// Which attributes are asked for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct AttributeMask(pub(crate) [u32; 2]);

impl AttributeMask {
    pub const NONE: Self = Self([0, 0]);
    pub const TYPE: Self = Self::bit(1);
    /// Another number after every change.
    pub const CHANGE: Self = Self::bit(3);
    pub const SIZE: Self = Self::bit(4);
    pub const FSID: Self = Self::bit(8);
    pub const LEASE_TIME: Self = Self::bit(10);
    /// Why the server does not know the others.
    pub(crate) const RDATTR_ERROR: Self = Self::bit(11);
    pub const FILEID: Self = Self::bit(20);
    pub(crate) const MAXFILESIZE: Self = Self::bit(27);
    pub(crate) const MAXNAME: Self = Self::bit(29);
    pub(crate) const MAXREAD: Self = Self::bit(30);
    pub(crate) const MAXWRITE: Self = Self::bit(31);
    pub const MODE: Self = Self::bit(33);
    pub const NUMLINKS: Self = Self::bit(35);
    pub const OWNER: Self = Self::bit(36);
    pub const OWNER_GROUP: Self = Self::bit(37);
    pub(crate) const SPACE_AVAIL: Self = Self::bit(42);
    pub(crate) const SPACE_TOTAL: Self = Self::bit(44);
    pub const SPACE_USED: Self = Self::bit(45);
    pub const TIME_ACCESS: Self = Self::bit(47);
    /// When the properties last changed.
    pub const TIME_METADATA: Self = Self::bit(52);
    /// When the content last changed.
    pub const TIME_MODIFY: Self = Self::bit(53);

    const fn bit(number: u32) -> Self {
        match number {
            0..32 => Self([1 << number, 0]),
            _ => Self([0, 1 << (number - 32)]),
        }
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self([self.0[0] | other.0[0], self.0[1] | other.0[1]])
    }

    /// What `stat` shows that is a number.
    pub const STAT: Self = Self::TYPE
        .and(Self::CHANGE)
        .and(Self::SIZE)
        .and(Self::FILEID)
        .and(Self::MODE)
        .and(Self::NUMLINKS)
        .and(Self::TIME_MODIFY);
    pub(crate) const LIMITS: Self = Self::LEASE_TIME
        .and(Self::MAXFILESIZE)
        .and(Self::MAXNAME)
        .and(Self::MAXREAD)
        .and(Self::MAXWRITE)
        .and(Self::SPACE_AVAIL)
        .and(Self::SPACE_TOTAL);
}

impl BitOr for AttributeMask {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.and(other)
    }
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum FileType {
    File,
    Directory,
    Symlink,
    Other,
}

impl FileType {
    /// `nfs_ftype4`. There are several others.
    fn number(self) -> u32 {
        match self {
            Self::File => 1,
            Self::Directory => 2,
            Self::Symlink => 5,
            Self::Other => 0,
        }
    }
}

/// A time as NFS has it.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Time {
    pub seconds: i64,
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

/// What was asked for and the server has.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Attributes {
    pub file_type: Option<FileType>,
    pub change: Option<u64>,
    pub size: Option<u64>,
    pub fsid: Option<(u64, u64)>,
    pub fileid: Option<u64>,
    pub mode: Option<u32>,
    pub numlinks: Option<u32>,
    /// As the server writes it: a number in digits, or a name with a domain.
    pub owner: Option<Box<[u8]>>,
    pub owner_group: Option<Box<[u8]>>,
    pub space_used: Option<u64>,
    pub time_access: Option<Time>,
    pub time_metadata: Option<Time>,
    pub time_modify: Option<Time>,
    pub(crate) limits: FsLimits,
}

impl Attributes {
    /// How long the server remembers a client that says nothing, if it was asked and says so.
    pub fn lease_seconds(&self) -> Option<u32> {
        self.limits.lease
    }
}

/// What a server allows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FsLimits {
    /// Seconds that it remembers a client that says nothing.
    pub lease: Option<u32>,
    pub max_file_size: Option<u64>,
    pub max_name_bytes: Option<u32>,
    pub max_read_bytes: Option<u64>,
    pub max_write_bytes: Option<u64>,
    pub space_available: Option<u64>,
    pub space_total: Option<u64>,
}

/// Reads a bitmap and the values of its attributes, in the order of their numbers.
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
        false => Err(Error::Protocol("attributes are longer than they say")),
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
        // The others are missing then, which says enough.
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
        _ => return Err(Error::Protocol("an attribute has come that nobody asked for")),
    }
    Ok(())
}

fn time(from: &mut Decoder) -> Result<Time> {
    #[allow(clippy::cast_possible_wrap, reason = "it is a signed number")]
    let (seconds, nanoseconds) = (from.long()? as i64, from.word()?);
    match nanoseconds {
        0..1_000_000_000 => Ok(Time { seconds, nanoseconds }),
        _ => Err(Error::Protocol("a time has more than a second of nanoseconds")),
    }
}

/// Properties to be set; the others stay.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SetAttributes {
    pub size: Option<u64>,
    pub mode: Option<u32>,
    /// As the server writes it.
    pub owner: Option<Box<[u8]>>,
    pub owner_group: Option<Box<[u8]>>,
    pub time_access: Option<Time>,
    pub time_modify: Option<Time>,
}

impl SetAttributes {
    pub fn mode(mode: u32) -> Self {
        Self { mode: Some(mode), ..Self::default() }
    }

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
                #[allow(clippy::cast_sign_loss, reason = "it is a signed number")]
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

/// What a file must be, for VERIFY.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Expected<'a> {
    pub file_type: Option<FileType>,
    pub size: Option<u64>,
    pub mode: Option<u32>,
    pub owner: Option<&'a [u8]>,
    pub owner_group: Option<&'a [u8]>,
}

impl Expected<'_> {
    /// What each VERIFY asks. NFS-Ganesha (4.3, 6.2) compares nothing rightly that comes after a name whose length is no
    /// multiple of four, so that a name is the last attribute of its VERIFY.
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
