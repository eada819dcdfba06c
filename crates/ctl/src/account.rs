//! AWS configuration from the environment, and checks of arguments that name AWS resources.

use anyhow::{Result, ensure};
use aws_config::{BehaviorVersion, Region, SdkConfig};

/// Hint for errors in which AWS cannot be called at all.
pub const CREDENTIALS_HINT: &str = "credentials: AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";

/// Maximum length of a stack name.
const MAX_STACK_NAME_LEN: usize = 128;

/// The configuration of all AWS clients, from the environment, the profile, `--region` and `--endpoint-url`.
///
/// # Errors
/// An endpoint in the environment is not a URL, or no region is configured.
pub async fn config(region: Option<&str>, endpoint_url: Option<&str>) -> Result<SdkConfig> {
    for (name, value) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("AWS_ENDPOINT_URL") {
            check_endpoint(&name, &value.to_string_lossy())?;
        }
    }
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    if let Some(region) = region {
        loader = loader.region(Region::new(region.to_owned()));
    }
    if let Some(url) = endpoint_url {
        check_endpoint("--endpoint-url", url)?;
        loader = loader.endpoint_url(url);
    }
    let config = loader.load().await;
    ensure!(
        config.region().is_some_and(|region| !region.as_ref().is_empty()),
        "--region: no region is configured, neither in the environment (AWS_REGION) nor in the profile"
    );
    Ok(config)
}

/// The SDK reads a URL without a scheme as a path, and its error does not name the variable.
fn check_endpoint(name: &str, value: &str) -> Result<()> {
    ensure!(!value.trim().is_empty(), "{name}: the variable is empty; set it to a URL, or unset it");
    let host = ["http://", "https://"].iter().find_map(|scheme| value.strip_prefix(scheme));
    ensure!(
        host.is_some_and(|host| !host.is_empty()),
        "{name}: {value:?} is not a URL; expected http:// or https:// and a host, such as http://127.0.0.1:4566"
    );
    Ok(())
}

/// Parses `--stack` by CloudFormation's rules for stack names.
///
/// # Errors
/// CloudFormation would reject the name.
pub fn stack_name(text: &str) -> Result<String, String> {
    let starts_with_letter = text.starts_with(|first: char| first.is_ascii_alphabetic());
    let all_allowed = text.chars().all(|char| char.is_ascii_alphanumeric() || char == '-');
    match starts_with_letter && all_allowed && text.len() <= MAX_STACK_NAME_LEN {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "a stack name starts with a letter and has at most {MAX_STACK_NAME_LEN} letters, digits and hyphens"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url() {
        for good in ["http://127.0.0.1:4566", "https://vpce-1.ssm.eu-west-1.vpce.amazonaws.com/"] {
            assert!(check_endpoint("AWS_ENDPOINT_URL", good).is_ok(), "{good}");
        }
        for bad in ["", " ", "127.0.0.1:4566", "localhost", "http://", "ftp://127.0.0.1"] {
            let err = check_endpoint("AWS_ENDPOINT_URL_EFS", bad).unwrap_err().to_string();
            assert!(err.starts_with("AWS_ENDPOINT_URL_EFS: "), "{err}");
        }
    }

    #[test]
    fn a_stack_has_a_name() {
        assert_eq!(stack_name("efs-mount-autoscaling").as_deref(), Ok("efs-mount-autoscaling"));
        let long = "a".repeat(MAX_STACK_NAME_LEN + 1);
        for bad in ["", " ", "1st", "a b", "a/b", "-a", long.as_str()] {
            assert!(stack_name(bad).is_err(), "{bad:?}");
        }
    }
}
