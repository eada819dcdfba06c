//! Somebody between the walk and the kernel, for tests: sees every call, and breaks some.
#![allow(clippy::panic, reason = "one that is told to panics")]

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    ffi::{CStr, CString},
    hash::{Hash, Hasher},
    io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    Counted, Options, Partition, Progress, engine,
    getdents::{Entries, Kind},
    kernel::Kernel,
    source::{Identity, Source, Stamp},
};

/// A call that fails, so many times.
struct Fault {
    call: &'static str,
    name: &'static CStr,
    number: i32,
    /// It goes well so often first.
    after: usize,
    times: usize,
}

pub(crate) struct Watched {
    inner: Kernel,
    pub calls: Mutex<BTreeMap<&'static str, usize>>,
    faults: Mutex<Vec<Fault>>,
    /// As the NFS client: kinds are told by a read of a directory from its beginning, and by a later one if
    /// there were so many looks since the last.
    pub looks_needed: Option<usize>,
    /// No kind is ever told.
    pub tells_nothing: bool,
    pub most_open: usize,
    open: Arc<AtomicUsize>,
    pub most_ever_open: AtomicUsize,
    /// Looking at an entry takes this long.
    pub delay: Duration,
    /// Reading this one panics, after the delay.
    pub panics_at: Option<&'static CStr>,
    looking: AtomicUsize,
    pub most_looking: AtomicUsize,
    pub resumable: bool,
}

pub(crate) struct Directory {
    inner: <Kernel as Source>::Directory,
    name: CString,
    reads: AtomicUsize,
    looks: AtomicUsize,
    open: Arc<AtomicUsize>,
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Watched {
    pub fn new(root: &Path) -> Self {
        Self {
            inner: Kernel::new(root, true).unwrap(),
            calls: Mutex::default(),
            faults: Mutex::default(),
            looks_needed: None,
            tells_nothing: false,
            most_open: 1000,
            open: Arc::default(),
            most_ever_open: AtomicUsize::new(0),
            delay: Duration::ZERO,
            panics_at: None,
            looking: AtomicUsize::new(0),
            most_looking: AtomicUsize::new(0),
            resumable: true,
        }
    }

    pub fn fails(self, call: &'static str, name: &'static CStr, number: i32, after: usize, times: usize) -> Self {
        self.faults.lock().unwrap().push(Fault { call, name, number, after, times });
        self
    }

    pub fn called(&self, call: &str) -> usize {
        self.calls.lock().unwrap().get(call).copied().unwrap_or(0)
    }

    fn call(&self, call: &'static str, name: &CStr) -> io::Result<()> {
        *self.calls.lock().unwrap().entry(call).or_default() += 1;
        for fault in self.faults.lock().unwrap().iter_mut().filter(|fault| fault.call == call && fault.name == name) {
            if fault.after > 0 {
                fault.after -= 1;
            } else if fault.times > 0 {
                fault.times -= 1;
                return Err(io::Error::from_raw_os_error(fault.number));
            }
        }
        Ok(())
    }

    fn opened(&self, inner: <Kernel as Source>::Directory, name: &CStr) -> Directory {
        let number = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_ever_open.fetch_max(number, Ordering::Relaxed);
        let (reads, looks, open) = (AtomicUsize::new(0), AtomicUsize::new(0), Arc::clone(&self.open));
        Directory { inner, name: name.to_owned(), reads, looks, open }
    }

    pub fn count(&self, options: &Options) -> Counted {
        engine::run(self, options, &Progress::default(), &Partition::whole(), None).unwrap()
    }
}

impl Source for Watched {
    type Directory = Directory;

    fn root(&self) -> io::Result<Directory> {
        self.call("root", c"")?;
        Ok(self.opened(self.inner.root()?, c""))
    }

    fn open(&self, parent: &Directory, name: &CStr) -> io::Result<Directory> {
        self.call("open", name)?;
        Ok(self.opened(self.inner.open(&parent.inner, name)?, name))
    }

    fn read(&self, directory: &Directory, buffer: &mut [u8]) -> io::Result<usize> {
        self.call("read", &directory.name)?;
        if self.panics_at == Some(&directory.name) {
            thread::sleep(self.delay);
            panic!("on purpose");
        }
        let filled = self.inner.read(&directory.inner, buffer)?;
        let first = directory.reads.fetch_add(1, Ordering::Relaxed) == 0;
        let looks = directory.looks.swap(0, Ordering::Relaxed);
        if self.tells_nothing || self.looks_needed.is_some_and(|needed| !first && looks < needed) {
            let mut at = 0;
            while at < filled {
                buffer[at + 18] = libc::DT_UNKNOWN;
                at += usize::from(u16::from_ne_bytes([buffer[at + 16], buffer[at + 17]]));
            }
        }
        Ok(filled)
    }

    fn ends(&self, directory: &Directory, cookie: i64) -> bool {
        self.inner.ends(&directory.inner, cookie)
    }

    fn seek(&self, directory: &Directory, cookie: i64) -> io::Result<()> {
        self.call("seek", &directory.name)?;
        directory.reads.store(1, Ordering::Relaxed);
        self.inner.seek(&directory.inner, cookie)
    }

    fn kind(&self, directory: &Directory, name: &CStr, follow: bool) -> io::Result<Kind> {
        self.call("kind", name)?;
        let looking = self.looking.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_looking.fetch_max(looking, Ordering::Relaxed);
        thread::sleep(self.delay);
        self.looking.fetch_sub(1, Ordering::Relaxed);
        self.inner.kind(&directory.inner, name, follow)
    }

    fn needs_readdirplus_hints(&self) -> bool {
        self.looks_needed.is_some()
    }

    fn look(&self, directory: &Directory, name: &CStr) {
        self.call("look", name).unwrap();
        directory.looks.fetch_add(1, Ordering::Relaxed);
        self.inner.look(&directory.inner, name);
    }

    /// Times that change when a name does, and are long past: those of the machine are too coarse to see
    /// what a test does in one tick.
    fn stamp(&self, directory: &Directory, name: Option<&CStr>) -> io::Result<Stamp> {
        self.call("stamp", name.unwrap_or(&directory.name))?;
        let real = self.inner.stamp(&directory.inner, name)?;
        let itself = match name {
            Some(name) => self.inner.open(&directory.inner, name)?,
            None => self.inner.open(&directory.inner, c".")?,
        };
        let (mut buffer, mut names) = (vec![0; 1 << 16], vec![]);
        loop {
            let filled = self.inner.read(&itself, &mut buffer)?;
            if filled == 0 {
                break;
            }
            names.extend(Entries::new(&buffer[..filled]).map(|entry| entry.unwrap().name().unwrap().to_owned()));
        }
        names.sort();
        let mut hasher = DefaultHasher::new();
        names.hash(&mut hasher);
        let time = i64::try_from(hasher.finish() % 1_000_000_000).unwrap();
        Ok(Stamp { modified: (time, 0), changed: (time, 0), ..real })
    }

    fn identity(&self, directory: &Directory) -> io::Result<Identity> {
        self.call("identity", &directory.name)?;
        let found = self.inner.identity(&directory.inner)?;
        Ok(Identity { resumable: found.resumable && self.resumable, ..found })
    }

    fn most_open(&self) -> usize {
        self.most_open
    }
}
