//! One process: how long it takes, how much of the processors and of memory, and what it counts.

use std::{
    io::{self, Read},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::tools::Prints;

/// What a process took.
pub struct Usage {
    pub wall: Duration,
    /// User's and system's.
    pub processors: Duration,
    pub peak_bytes: u64,
}

/// Runs it, and throws away what it prints: a reader would take a share of the processors.
pub fn run(mut command: Command) -> Result<Usage> {
    let began = Instant::now();
    let child = command.stdout(Stdio::null()).spawn().with_context(|| format!("{command:?}"))?;
    finish(&command, &child, began)
}

/// Runs it, and gives what it counted; `None` when it does not say.
pub fn counted(mut command: Command, prints: Prints) -> Result<(Usage, Option<u64>)> {
    let began = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("{command:?}"))?;
    let output = child.stdout.take().context("a pipe")?;
    let files = read(output, prints)?;
    Ok((finish(&command, &child, began)?, files))
}

fn read(mut output: ChildStdout, prints: Prints) -> Result<Option<u64>> {
    Ok(match prints {
        Prints::Nothing => io::copy(&mut output, &mut io::sink()).map(|_| None)?,
        Prints::Number => Some(io::read_to_string(output)?.trim().parse()?),
        Prints::Each(mark) => {
            let (mut buffer, mut files) = ([0; 64 << 10], 0);
            loop {
                match output.read(&mut buffer)? {
                    0 => break Some(files),
                    filled => files += buffer[..filled].iter().filter(|byte| **byte == mark).count() as u64,
                }
            }
        }
    })
}

#[expect(unsafe_code, reason = "the standard library does not tell the usage of one child")]
fn finish(command: &Command, child: &Child, began: Instant) -> Result<Usage> {
    let mut status = 0;
    // SAFETY: a structure of numbers, of which zeros are some.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both are written to and outlive the call; the child is ours and nobody has waited for it.
    while unsafe { libc::wait4(child.id().cast_signed(), &raw mut status, 0, &raw mut usage) } < 0 {
        let err = io::Error::last_os_error();
        ensure!(err.kind() == io::ErrorKind::Interrupted, "{command:?}: {err}");
    }
    let wall = began.elapsed();
    ensure!(status == 0, "{command:?}: status {status:#x}");
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.cast_unsigned()) + Duration::from_micros(time.tv_usec.cast_unsigned())
    };
    let processors = time(usage.ru_utime) + time(usage.ru_stime);
    Ok(Usage { wall, processors, peak_bytes: usage.ru_maxrss.cast_unsigned() << 10 })
}
