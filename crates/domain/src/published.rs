//! The published list: the contract with every service that routes by it.
//!
//! ```json
//! {"mount_targets":[{"mount_target_id":"fsmt-12345678","ip_address":"10.0.1.100",
//!                    "availability_zone":"ap-northeast-1a","subnet_id":"subnet-12345678"}]}
//! ```
//! Writers write exactly these fields, and `ipv6_address` of a target that has one, sorted by zone and then by id.
//! `ip_address` is the IPv4 address if there is one, otherwise the IPv6 address. Readers ignore unknown fields, and name a
//! bad entry.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::model::{LifeCycle, MountTarget, MountTargetId, SubnetId, ZoneName};

/// Maximum size of a standard parameter.
pub const PARAMETER_LIMIT: usize = 4096;

/// One target that a file service may use.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PublishedTarget {
    pub mount_target_id: MountTargetId,
    pub ip_address: IpAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_address: Option<Ipv6Addr>,
    pub availability_zone: ZoneName,
    pub subnet_id: SubnetId,
}

/// A list of targets: never empty, each target once.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value")]
pub struct PublishedList {
    mount_targets: Vec<PublishedTarget>,
}

/// Why a text is not a published list.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error, Serialize, Deserialize)]
pub enum NotAList {
    #[error("not a JSON object with an array `mount_targets`: {0}")]
    Shape(String),
    #[error("`mount_targets` is empty; a published list holds at least one target")]
    Empty,
    #[error("`mount_targets[{index}]` is bad: {err}")]
    Entry { index: usize, err: String },
}

impl PublishedList {
    /// Parses the text of the parameter.
    ///
    /// # Errors
    /// [`NotAList`] names the bad entry and the error: a missing or mistyped field, an empty name, an invalid address, a
    /// duplicate target.
    pub fn parse(text: &str) -> Result<Self, NotAList> {
        let value: Value = serde_json::from_str(text).map_err(|err| NotAList::Shape(err.to_string()))?;
        Self::try_from(value)
    }

    /// The list to publish, from what EFS reports now. `None` if no target can be published, because an empty list is never
    /// written.
    ///
    /// A target is publishable when it is `available` and has an address, or `updating` and already published: an update
    /// must not remove a target in use.
    pub fn of(targets: &[MountTarget], published: Option<&PublishedList>) -> Option<Self> {
        let mut mount_targets: Vec<_> = targets
            .iter()
            .filter(|target| match target.state {
                LifeCycle::Available => true,
                LifeCycle::Updating => published.is_some_and(|list| list.contains(&target.id)),
                _ => false,
            })
            .filter_map(|target| {
                Some(PublishedTarget {
                    mount_target_id: target.id.clone(),
                    ip_address: target.address()?,
                    ipv6_address: target.ipv6,
                    availability_zone: target.zone_name.clone(),
                    subnet_id: target.subnet.clone(),
                })
            })
            .collect();
        mount_targets.sort_by(|a, b| {
            (&a.availability_zone, &a.mount_target_id).cmp(&(&b.availability_zone, &b.mount_target_id))
        });
        mount_targets.dedup_by(|a, b| a.mount_target_id == b.mount_target_id);
        (!mount_targets.is_empty()).then_some(Self { mount_targets })
    }

    pub fn targets(&self) -> &[PublishedTarget] {
        &self.mount_targets
    }

    pub fn contains(&self, id: &MountTargetId) -> bool {
        self.mount_targets.iter().any(|t| t.mount_target_id == *id)
    }

    /// Identifies the list: the first 16 hexadecimal digits of the SHA-256 of its text.
    pub fn fingerprint(&self) -> String {
        let digest = Sha256::digest(self.to_json());
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The text that is written to the parameter.
    pub fn to_json(&self) -> String {
        // A struct of strings and addresses always serializes.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl TryFrom<Value> for PublishedList {
    type Error = NotAList;

    fn try_from(value: Value) -> Result<Self, NotAList> {
        #[derive(Deserialize)]
        struct Raw {
            mount_targets: Vec<Value>,
        }
        let raw: Raw = serde_json::from_value(value).map_err(|err| NotAList::Shape(err.to_string()))?;
        let mut seen = BTreeSet::new();
        let mut mount_targets = Vec::with_capacity(raw.mount_targets.len());
        for (index, value) in raw.mount_targets.into_iter().enumerate() {
            let bad = |err: String| NotAList::Entry { index, err };
            let target: PublishedTarget = serde_json::from_value(value).map_err(|e| bad(e.to_string()))?;
            let names = [
                ("mount_target_id", target.mount_target_id.as_str()),
                ("availability_zone", target.availability_zone.as_str()),
                ("subnet_id", target.subnet_id.as_str()),
            ];
            if let Some((field, _)) = names.iter().find(|(_, name)| name.is_empty()) {
                return Err(bad(format!("`{field}` is empty")));
            }
            if !seen.insert(target.mount_target_id.clone()) {
                return Err(bad(format!("{} is there twice", target.mount_target_id)));
            }
            mount_targets.push(target);
        }
        if mount_targets.is_empty() {
            return Err(NotAList::Empty);
        }
        Ok(Self { mount_targets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: &str = r#"{"mount_targets":[{"mount_target_id":"fsmt-12345678","ip_address":"10.0.1.100","availability_zone":"ap-northeast-1a","subnet_id":"subnet-12345678"}]}"#;

    #[test]
    fn the_seeds_text_is_read_and_written_to_the_letter() {
        assert_eq!(PublishedList::parse(SEED).unwrap().to_json(), SEED);
    }

    #[test]
    fn a_list_is_known_by_its_content() {
        let list = PublishedList::parse(SEED).unwrap();
        // By another program: `printf %s "$list" | sha256sum | cut -c1-16`.
        assert_eq!(list.fingerprint(), "bc6419a7b1a6bfee");
        let spaced = PublishedList::parse(&SEED.replace(',', " , ")).unwrap();
        assert_eq!(spaced.fingerprint(), list.fingerprint());
        let other = PublishedList::parse(&SEED.replace("10.0.1.100", "10.0.1.101")).unwrap();
        assert_ne!(other.fingerprint(), list.fingerprint());
    }

    #[test]
    fn a_target_with_ipv6_has_one_field_more() {
        let both = SEED.replace(r#","availability_zone""#, r#","ipv6_address":"2001:db8::5","availability_zone""#);
        let list = PublishedList::parse(&both).unwrap();
        assert_eq!(list.to_json(), both);
        let only = both.replace("10.0.1.100", "2001:db8::5");
        assert_eq!(
            PublishedList::parse(&only).unwrap().targets()[0].ip_address,
            list.targets()[0].ipv6_address.unwrap()
        );
        assert!(PublishedList::parse(&both.replace("2001:db8::5", "10.0.1.100")).is_err());
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let text = SEED.replacen(r#"{"mount_target_id""#, r#"{"weight":3,"mount_target_id""#, 1);
        assert_eq!(PublishedList::parse(&text).unwrap().to_json(), SEED);
    }

    #[test]
    fn a_bad_entry_is_named() {
        let twice = SEED.replace("]}", &format!(",{}", &SEED[18..]));
        for (text, expected) in [
            (SEED.replace("10.0.1.100", "10.0.1.1000"), "`mount_targets[0]` is bad: invalid IP address"),
            (SEED.replace("subnet-12345678", ""), "`mount_targets[0]` is bad: `subnet_id` is empty"),
            (SEED.replace("\"subnet_id\"", "\"subnet\""), "`mount_targets[0]` is bad: missing field `subnet_id`"),
            (twice, "`mount_targets[1]` is bad: fsmt-12345678 is there twice"),
            (r#"{"mount_targets":[]}"#.into(), "`mount_targets` is empty"),
            ("".into(), "not a JSON object"),
            ("[]".into(), "not a JSON object"),
        ] {
            let error = PublishedList::parse(&text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
