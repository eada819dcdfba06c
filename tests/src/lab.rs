//! A world in the emulator with a small directory to count, reset for each scenario.

use std::{fs, ops::Deref, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use domain::{published::PublishedList, record::Execution};
use local_world::{Spec, World, execution};
use serde_json::Value;
use tempfile::TempDir;

/// Files in the directory.
pub const FILES: u64 = 20;
/// `FILE_COUNT_THRESHOLD`: these files are too many.
pub const THRESHOLD: u64 = 10;

/// A world and its files.
pub struct Lab {
    world: World,
    spec: Spec,
    files: TempDir,
}

impl Deref for Lab {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Lab {
    /// Three zones, targets in the first ones, and these variables for the functions.
    pub async fn start(mount_targets: usize, variables: &[(&str, &str)]) -> Result<Self> {
        Self::create(mount_targets, variables, false).await
    }

    /// The stack of `cdk/`, deployed by CDK, with three zones and two targets. Nothing is published yet.
    pub async fn deployed() -> Result<Self> {
        Self::create(2, &[], true).await
    }

    async fn create(mount_targets: usize, variables: &[(&str, &str)], stack: bool) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let directory = files.path().join("data");
        for number in 0..FILES {
            let folder = directory.join(format!("folder {}", number % 3));
            fs::create_dir_all(&folder)?;
            fs::write(folder.join(format!(".file {number}")), "content")?;
        }
        std::os::unix::fs::symlink("folder 0", directory.join("link"))?;
        let mut all = vec![("FILE_COUNT_THRESHOLD".to_owned(), THRESHOLD.to_string())];
        all.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let spec = Spec {
            directory,
            zones: 3,
            mount_targets,
            creation: Duration::from_millis(500),
            // A second of the machine takes a twentieth of a second.
            poll_interval: 4,
            poll_timeout: 60,
            wait_scale: 0.05,
            variables: all,
            stack,
        };
        let world = World::create(&crate::tools(), &spec, |step| eprintln!("{step}")).await?;
        Ok(Self { world, spec, files })
    }

    /// Deploys again with settings changed by `change`.
    pub async fn deploy(&mut self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let directory = self.spec.directory.to_str().context("the directory's name is not UTF-8")?;
        let mut settings = self.spec.settings(self.world.proxy.endpoint(), directory);
        change(&mut settings);
        let stack = self.world.stack.as_mut().context("this lab is not a stack")?;
        stack.update(settings, |step| eprintln!("{step}")).await
    }

    /// Resets targets, parameters and rules to the start of the lab.
    pub async fn scenario(&self, name: &str) -> Result<()> {
        eprintln!("\n# {name}");
        self.world.settle(&self.spec).await
    }

    /// Runs one execution.
    pub async fn run(&self, input: Value) -> Result<Execution> {
        let execution = execution::run(&self.world, &input, |_| {}).await?;
        eprintln!(
            "{input} -> {} {} {}",
            execution.states.join(" "),
            execution.status,
            execution.cause.as_deref().unwrap_or_default()
        );
        Ok(execution)
    }

    /// The published list; fails if there is none or it does not parse.
    pub async fn list(&self) -> Result<PublishedList> {
        let (text, _) = self.world.published().await?.context("nothing is published")?;
        Ok(PublishedList::parse(&text)?)
    }

    /// Fails unless the published list matches the existing targets.
    pub async fn published_is_what_there_is(&self) -> Result<()> {
        let expected = PublishedList::of(&self.world.targets().await?, None);
        ensure!(expected == Some(self.list().await?), "the published list is not that of the targets");
        Ok(())
    }

    /// Number of these calls by the functions in this scenario.
    pub fn called(&self, operation: &str) -> usize {
        self.world.proxy.calls().iter().filter(|call| *call == operation).count()
    }

    /// Fails if the functions called anything that changes state.
    pub fn nothing_was_changed(&self) -> Result<()> {
        let calls = self.world.proxy.calls();
        let changing = calls.iter().find(|call| !call.contains(":Describe") && !call.contains(":Get"));
        ensure!(changing.is_none(), "{changing:?} was called");
        Ok(())
    }

    /// The counted directory.
    pub fn directory(&self) -> &Path {
        &self.spec.directory
    }

    /// Moves the directory away while `during` runs.
    pub async fn without_directory<T>(&self, during: impl Future<Output = Result<T>>) -> Result<T> {
        let aside = self.files.path().join("aside");
        fs::rename(&self.spec.directory, &aside)?;
        let outcome = during.await;
        fs::rename(&aside, &self.spec.directory)?;
        outcome
    }
}

/// Number of regular files according to `find`, as an independent oracle.
///
/// # Errors
/// `find` is missing or fails.
pub fn found_by_find(directory: &Path) -> Result<u64> {
    let output = Command::new("find").arg(directory).args(["-type", "f", "-printf", "x"]).output()?;
    ensure!(output.status.success(), "find: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout.len() as u64)
}
