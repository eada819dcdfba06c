//! The AWS account that the environment leads to.

use anyhow::{Result, ensure};
use aws_config::{BehaviorVersion, Region, SdkConfig};

/// What is said when AWS cannot be asked at all.
pub const CREDENTIALS: &str = "credentials: AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";

/// The longest name of a stack.
const MAX_STACK_NAME: usize = 128;

/// The configuration of all clients, by the environment, the profile, `--region` and `--endpoint-url`.
///
/// # Errors
/// When an endpoint in the environment is no URL, or nothing says which region.
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
        "--region: neither the environment (AWS_REGION) nor the profile says which"
    );
    Ok(config)
}

/// The SDK takes a URL without a scheme for a path, and its error does not say of what.
fn check_endpoint(name: &str, value: &str) -> Result<()> {
    ensure!(!value.trim().is_empty(), "{name}: it is set and empty; give it a URL, or unset it");
    let host = ["http://", "https://"].iter().find_map(|scheme| value.strip_prefix(scheme));
    ensure!(
        host.is_some_and(|host| !host.is_empty()),
        "{name}: {value:?} is not a URL; it begins with http:// or https://, such as http://127.0.0.1:4566"
    );
    Ok(())
}

/// The value of `--stack`, by CloudFormation's rule for names.
///
/// # Errors
/// When CloudFormation would not take it.
pub fn stack_name(text: &str) -> Result<String, String> {
    let begins = text.starts_with(|first: char| first.is_ascii_alphabetic());
    let goes_on = text.chars().all(|one| one.is_ascii_alphanumeric() || one == '-');
    match begins && goes_on && text.len() <= MAX_STACK_NAME {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "the name of a stack begins with a letter and has letters, digits and hyphens, at most {MAX_STACK_NAME}"
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
        let long = "a".repeat(MAX_STACK_NAME + 1);
        for bad in ["", " ", "1st", "a b", "a/b", "-a", long.as_str()] {
            assert!(stack_name(bad).is_err(), "{bad:?}");
        }
    }
}
