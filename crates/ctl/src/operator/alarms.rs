//! Alarms of an installation.

use anyhow::Result;
use aws_sdk_cloudwatch::types::MetricAlarm;

use super::Installation;

/// Alarms of the stack, each with the name that the documents use. CloudFormation names an alarm
/// `STACK-ObservabilityNAME…`: a prefix of the stack's name alone would find those of the stack `STACK-2` too.
///
/// # Errors
/// When CloudWatch does not answer.
pub async fn of_stack(installation: &Installation) -> Result<Vec<(String, MetricAlarm)>> {
    let Some(stack) = &installation.stack else { return Ok(vec![]) };
    let prefix = format!("{}-Observability", stack.name);
    let pages = installation.clients.cloudwatch.describe_alarms().alarm_name_prefix(prefix).into_paginator().send();
    let pages = pages.collect::<Result<Vec<_>, _>>().await?;
    let alarms = pages.into_iter().flat_map(|page| page.metric_alarms.unwrap_or_default());
    Ok(alarms.map(|alarm| (short_name(alarm.alarm_name().unwrap_or_default(), &stack.name), alarm)).collect())
}

/// `NAME-ObservabilityIoLimit1A2B3C4D-AbCdEf` is `IoLimit`: CloudFormation adds a hash and a suffix.
fn short_name(name: &str, stack: &str) -> String {
    let inner = name.strip_prefix(stack).and_then(|name| name.strip_prefix("-Observability")).unwrap_or(name);
    let logical = inner.split('-').next().unwrap_or(inner);
    let hash = logical.len().saturating_sub(8);
    match logical.split_at_checked(hash) {
        Some((short, digits)) if !short.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            short.to_owned()
        }
        _ => logical.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::short_name;

    #[test]
    fn an_alarm_is_called_as_in_the_documents() {
        assert_eq!(short_name("s-ObservabilityIoLimit1A2B3C4D-AbCdEfGhIjKl", "s"), "IoLimit");
        assert_eq!(short_name("s-CountErrors", "s"), "s");
        assert_eq!(short_name("other", "s"), "other");
        assert_eq!(short_name("", ""), "");
    }
}
