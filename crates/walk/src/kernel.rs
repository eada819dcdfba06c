//! A directory of this machine, through Linux system calls.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    fs::{self, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Statx, StatxFlags},
    io::Errno,
    process::{Resource, getrlimit},
    system::uname,
};

use crate::{
    getdents::Kind,
    source::{Identity, Source, Stamp},
};

const EXT4: u64 = 0xEF53;
const NFS: u64 = 0x6969;
const TMPFS: u64 = 0x0102_1994;
const XFS: u64 = 0x5846_5342;
/// File systems whose cookies belong to the directory and not to the open file: ext2 to ext4, XFS, btrfs, NFS; tmpfs since
/// Linux 6.6.
const RESUMABLE_FILE_SYSTEMS: [u64; 4] = [EXT4, XFS, 0x9123_683E, NFS];
/// File systems with one device number per mount. On others a directory may have another number without being a mount, for
/// example a btrfs subvolume.
const SINGLE_DEVICE_FILE_SYSTEMS: [u64; 4] = [EXT4, XFS, NFS, TMPFS];
/// Descriptors reserved for the rest of the process.
const RESERVED_DESCRIPTORS: usize = 64;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

pub(crate) struct Kernel {
    one_file_system: bool,
    /// Since Linux 5.6 `openat2` fails at a mount, so that no other directory needs a `statx` for its device. On older
    /// kernels, and where a sandbox forbids the call, each directory gets one.
    has_openat2: AtomicBool,
    root: OwnedFd,
    // Fetched on demand: each is a round trip to a distant server.
    device: OnceLock<u64>,
    /// The `f_type` of the root's file system.
    magic: OnceLock<u64>,
    most_open: usize,
}

impl Kernel {
    pub fn new(root: &Path, one_file_system: bool) -> io::Result<Self> {
        let root = retry(|| fs::openat(CWD, root, DIRECTORY, Mode::empty()))?;
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20).min(1 << 20);
        let most_open = usize::try_from(limit).unwrap_or(0).saturating_sub(RESERVED_DESCRIPTORS);
        let (device, magic) = (OnceLock::new(), OnceLock::new());
        Ok(Self { one_file_system, has_openat2: AtomicBool::new(true), root, device, magic, most_open })
    }

    /// As if a sandbox forbids it.
    #[cfg(test)]
    pub fn forbid_openat2(&self) {
        self.has_openat2.store(false, Ordering::Relaxed);
    }

    fn magic(&self) -> u64 {
        *self.magic.get_or_init(|| magic(&self.root).unwrap_or_default())
    }

    /// Whether the directory, or its subdirectory of this name, is on another file system than the root. The device number
    /// decides, not whether it is a mount, because a mount may show a part of the root's file system.
    fn is_other_file_system(&self, directory: &OwnedFd, name: Option<&CStr>) -> io::Result<bool> {
        let root = match self.device.get() {
            Some(known) => *known,
            None => {
                let asked = device_of(&self.root, None)?;
                *self.device.get_or_init(|| asked)
            }
        };
        Ok(device_of(directory, name)? != root)
    }

    fn unless_other_file_system(&self, opened: OwnedFd) -> io::Result<OwnedFd> {
        if self.is_other_file_system(&opened, None)? { Err(io::ErrorKind::CrossesDevices.into()) } else { Ok(opened) }
    }
}

fn device_of(directory: &OwnedFd, name: Option<&CStr>) -> io::Result<u64> {
    let flags = match name {
        Some(_) => AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT,
        None => AtFlags::EMPTY_PATH,
    };
    let name = name.unwrap_or(c"");
    retry(|| fs::statx(directory, name, flags | AtFlags::STATX_DONT_SYNC, StatxFlags::INO)).map(|found| device(&found))
}

fn magic(directory: &OwnedFd) -> io::Result<u64> {
    // 32 bits, in a field whose type depends on the architecture.
    Ok(fs::fstatfs(directory)?.f_type as u64 & 0xFFFF_FFFF)
}

fn device(found: &Statx) -> u64 {
    u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor)
}

fn kind(found: &Statx) -> Kind {
    match FileType::from_raw_mode(found.stx_mode.into()) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Link,
        _ => Kind::Other,
    }
}

/// Linux 6.6 or later.
fn tmpfs_is_resumable() -> bool {
    let system = uname();
    let mut numbers = system.release().to_bytes().split(|byte| !byte.is_ascii_digit());
    let mut number = || -> Option<u32> { std::str::from_utf8(numbers.next()?).ok()?.parse().ok() };
    matches!((number(), number()), (Some(major), Some(minor)) if (major, minor) >= (6, 6))
}

impl Source for Kernel {
    type Directory = OwnedFd;

    fn root(&self) -> io::Result<OwnedFd> {
        self.root.try_clone()
    }

    fn open(&self, parent: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
        let flags = DIRECTORY.union(OFlags::NOFOLLOW);
        if self.one_file_system && self.has_openat2.load(Ordering::Relaxed) {
            let opened = retry(|| fs::openat2(parent, name, flags, Mode::empty(), ResolveFlags::NO_XDEV));
            match opened.map_err(|err| (err.raw_os_error(), err)) {
                Ok(opened) if SINGLE_DEVICE_FILE_SYSTEMS.contains(&self.magic()) => return Ok(opened),
                Ok(opened) => return self.unless_other_file_system(opened),
                // By name, because opening what is mounted there may hang.
                Err((Some(libc::EXDEV), err)) if self.is_other_file_system(parent, Some(name))? => return Err(err),
                Err((Some(libc::EXDEV), _)) => {}
                Err((Some(libc::ENOSYS | libc::EPERM), _)) => self.has_openat2.store(false, Ordering::Relaxed),
                Err((_, err)) => return Err(err),
            }
        }
        let opened = retry(|| fs::openat(parent, name, flags, Mode::empty()))?;
        if self.one_file_system { self.unless_other_file_system(opened) } else { Ok(opened) }
    }

    #[expect(unsafe_code, reason = "no library gives the records of getdents64 as the kernel writes them")]
    fn read(&self, directory: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer`, which is borrowed mutably.
            let filled = unsafe {
                libc::syscall(libc::SYS_getdents64, directory.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
            };
            match usize::try_from(filled) {
                Ok(filled) => return Ok(filled.min(buffer.len())),
                Err(_) => match io::Error::last_os_error() {
                    err if err.kind() == io::ErrorKind::Interrupted => {}
                    err => return Err(err),
                },
            }
        }
    }

    /// After the last entry, ext4 sets the position to the maximum and returns nothing from there (`ext4_get_htree_eof`).
    /// On other file systems that number may be an ordinary cookie.
    fn ends(&self, _: &OwnedFd, cookie: i64) -> bool {
        cookie == i64::MAX && self.one_file_system && self.magic() == EXT4
    }

    fn seek(&self, directory: &OwnedFd, cookie: i64) -> io::Result<()> {
        // A bit pattern, not a number.
        fs::seek(directory, SeekFrom::Start(cookie as u64))?;
        Ok(())
    }

    fn kind(&self, directory: &OwnedFd, name: &CStr, follow: bool) -> io::Result<Kind> {
        let follow = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        let flags = follow | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        Ok(kind(&retry(|| fs::statx(directory, name, flags, StatxFlags::TYPE))?))
    }

    fn needs_readdirplus_hints(&self) -> bool {
        self.magic() == NFS
    }

    fn look(&self, directory: &OwnedFd, name: &CStr) {
        let _ = self.kind(directory, name, false);
    }

    fn stamp(&self, directory: &OwnedFd, name: Option<&CStr>) -> io::Result<Stamp> {
        let flags = match name {
            Some(_) => AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT,
            None => AtFlags::EMPTY_PATH,
        };
        let asked = StatxFlags::INO | StatxFlags::MTIME | StatxFlags::CTIME | StatxFlags::TYPE;
        let found = retry(|| fs::statx(directory, name.unwrap_or(c""), flags | AtFlags::STATX_FORCE_SYNC, asked))?;
        Ok(Stamp {
            device: device(&found),
            inode: found.stx_ino,
            modified: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
            changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
        })
    }

    fn identity(&self, directory: &OwnedFd) -> io::Result<Identity> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let inode = retry(|| fs::statx(directory, c"", flags, StatxFlags::INO))?.stx_ino;
        let magic = magic(directory)?;
        let resumable = RESUMABLE_FILE_SYSTEMS.contains(&magic) || (magic == TMPFS && tmpfs_is_resumable());
        Ok(Identity { inode, resumable })
    }

    fn most_open(&self) -> usize {
        self.most_open
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_signal_interrupts_is_asked_again() {
        let mut answers = [Err(Errno::INTR), Err(Errno::INTR), Ok(7), Err(Errno::IO)].into_iter();
        assert_eq!(retry(|| answers.next().unwrap()).unwrap(), 7);
        assert_eq!(retry(|| answers.next().unwrap()).unwrap_err().raw_os_error(), Some(libc::EIO));
    }
}
