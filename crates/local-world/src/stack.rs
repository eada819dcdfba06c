//! The infrastructure of `cdk/`, deployed by the real CDK into the emulator.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use super::{
    emulator::{ACCOUNT, REGION, end_with_parent},
    tools::{FUNCTIONS, Tools},
};

/// The stack's name, and its state machine's.
pub const NAME: &str = "efs-mount-autoscaling";
/// The name of the stack with its data.
pub const DATA_NAME: &str = "efs-mount-autoscaling-data";

/// A deployment of the stack.
pub struct Stack {
    /// Outputs of the stack.
    pub outputs: BTreeMap<String, String>,
    cdk: PathBuf,
    project: PathBuf,
    emulator: String,
    /// Binaries in the layout of a deployment, CDK's files, and the settings; removed on drop.
    directory: TempDir,
}

impl Stack {
    /// Prepares the emulator for deployments, and deploys. `settings` as in `cdk/lib/config.ts`; `step` is told how far
    /// it has come.
    ///
    /// # Errors
    /// CDK cannot be started or fails; with its output.
    pub async fn deploy(tools: &Tools, emulator: &str, settings: Value, mut step: impl FnMut(&str)) -> Result<Self> {
        // Beside the binaries, so that they need not be copied.
        let beside = tools.binary(FUNCTIONS[0])?;
        let directory =
            tempfile::Builder::new().prefix("stack-").tempdir_in(beside.parent().unwrap_or(Path::new(".")))?;
        for function in FUNCTIONS {
            let folder = directory.path().join("binaries").join(function);
            fs::create_dir_all(&folder)?;
            stage(&tools.binary(function)?, &folder.join("bootstrap"))
                .with_context(|| format!("{function}: cannot be staged"))?;
        }
        let project = tools.project.canonicalize()?;
        let cdk = tools.cdk.clone().unwrap_or_else(|| project.join("cdk/node_modules/.bin/cdk"));
        ensure!(cdk.is_file(), "--cdk: there is no program {}; `make cdk/node_modules` installs it", cdk.display());
        let emulator = emulator.replace("127.0.0.1", "localhost");
        let mut stack = Self { outputs: BTreeMap::new(), cdk, project, emulator, directory };
        step("preparing the emulator for CDK");
        // Outside the app's folder, because it does not concern the app.
        let environment = format!("aws://{ACCOUNT}/{REGION}");
        stack.run(stack.directory.path(), &["bootstrap", &environment], |_| {}).await?;
        step("deploying the stack with CDK");
        stack.update(settings, step).await?;
        Ok(stack)
    }

    /// Deploys with other settings.
    ///
    /// # Errors
    /// As [`Self::deploy`].
    pub async fn update(&mut self, mut settings: Value, mut step: impl FnMut(&str)) -> Result<()> {
        settings["pipeline"]["binaries"] = json!(self.directory.path().join("binaries"));
        let config = self.directory.path().join("config.json");
        fs::write(&config, settings.to_string())?;
        let outputs = self.directory.path().join("outputs.json");
        let context = format!("config={}", plain(&config)?);
        let out = plain(&self.directory.path().join("cdk.out"))?.to_owned();
        let arguments = [
            "deploy",
            "--all",
            "--require-approval",
            "never",
            "--progress",
            "events",
            "--output",
            &out,
            "-c",
            &context,
            "--outputs-file",
            plain(&outputs)?,
        ];
        // One line per quarter instead of a hundred lines.
        let mut quarters = 0;
        self.run(&self.project.join("cdk"), &arguments, |line| {
            if let Some((done, all)) = progress(line)
                && done.min(all) * 4 / all > quarters
            {
                quarters = done.min(all) * 4 / all;
                step(&format!("deploying: {} of {all} resources", done.min(all)));
            }
        })
        .await?;
        let said: Value = serde_json::from_slice(&fs::read(&outputs)?)?;
        self.outputs = serde_json::from_value(said[NAME].clone()).context("CDK said nothing of the stack")?;
        Ok(())
    }

    /// The template of the last deployment of one of the two stacks.
    ///
    /// # Errors
    /// When there is none.
    pub fn template(&self, name: &str) -> Result<Value> {
        let file = self.directory.path().join("cdk.out").join(format!("{name}.template.json"));
        Ok(serde_json::from_slice(&fs::read(file)?)?)
    }

    /// The output of this name.
    ///
    /// # Errors
    /// The stack has no such output.
    pub fn output(&self, name: &str) -> Result<String> {
        self.outputs.get(name).cloned().with_context(|| format!("the stack has no output {name}"))
    }

    async fn run(&self, place: &Path, arguments: &[&str], mut seen: impl FnMut(&str)) -> Result<()> {
        let mut command = std::process::Command::new(&self.cdk);
        command
            .args(arguments)
            .args(["--ci", "--no-color"])
            .current_dir(place)
            // No variable of the caller may lead to a real account.
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "TMPDIR"))
            .env("HOME", self.directory.path())
            .env("AWS_ENDPOINT_URL", &self.emulator)
            .env("AWS_ACCESS_KEY_ID", ACCOUNT)
            .env("AWS_SECRET_ACCESS_KEY", "local")
            .env("AWS_REGION", REGION)
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .env("NODE_NO_WARNINGS", "1")
            .stdin(Stdio::null())
            // With `--ci` all output is on stdout.
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        end_with_parent(&mut command);
        let mut child = Command::from(command).kill_on_drop(true).spawn().context("CDK cannot be started")?;
        let mut lines = BufReader::new(child.stdout.take().context("CDK has no stdout")?).lines();
        let mut said = Vec::new();
        while let Some(line) = lines.next_line().await? {
            seen(&line);
            said.push(line);
        }
        let status = child.wait().await?;
        let end = said[said.len().saturating_sub(40)..].join("\n");
        ensure!(status.success(), "`cdk {}` ended with {status}:\n{end}", arguments[0]);
        Ok(())
    }
}

/// `name |  12/105 | 2:14:23 AM | CREATE_COMPLETE …`
fn progress(line: &str) -> Option<(usize, usize)> {
    let (done, all) = line.split('|').nth(1)?.trim().split_once('/')?;
    Some((done.parse().ok()?, all.parse().ok().filter(|all| *all > 0)?))
}

fn plain(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// The binary without debug information if `strip` is installed, because it is packed and unpacked.
fn stage(binary: &Path, place: &Path) -> io::Result<()> {
    let stripped = std::process::Command::new("strip").arg("-o").arg(place).arg(binary).stderr(Stdio::null()).status();
    if stripped.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    fs::hard_link(binary, place).or_else(|_| fs::copy(binary, place).map(|_| ()))
}

#[cfg(test)]
mod tests {
    use super::progress;

    #[test]
    fn how_far_it_has_come_is_read_off_its_lines() {
        let line = "efs-mount-autoscaling |  12/105 | 2:14:23 AM | CREATE_COMPLETE | AWS::EC2::VPC | Network/Vpc";
        assert_eq!(progress(line), Some((12, 105)));
        for other in ["", "Outputs:", "a | b | c", "a | 1/0 | c", "a | 1/x |"] {
            assert_eq!(progress(other), None, "{other}");
        }
    }
}
