//! What the autoscaler knows and decides. Nothing here talks to AWS, reads a clock or an environment,
//! or waits: everything comes in as values and goes out as values, so every rule can be tested whole.
//!
//! Read [`policy::decide`] first: it is the one place where anything is decided. Whether there are too many files is
//! for one of the [`rules`] to say.
//!
//! ```
//! use domain::policy::{Decision, FileCount, Observation, Policy, Reason, decide};
//! # use domain::{model::*, policy::{Excluded, Published}, published::PublishedList, ledger::Deployed};
//! # let target = |n: u8| MountTarget {
//! #     id: MountTargetId::new(format!("fsmt-{n}")), subnet: SubnetId::new(format!("subnet-{n}")), vpc: None,
//! #     zone: ZoneId::new(format!("az{n}")), zone_name: ZoneName::new(format!("a{n}")),
//! #     ip: Some([10, 0, n, 5].into()), ipv6: None, state: LifeCycle::Available,
//! # };
//! # let subnet = |n: u8| Subnet {
//! #     id: SubnetId::new(format!("subnet-{n}")), zone: ZoneId::new(format!("az{n}")), free_addresses: 200,
//! # };
//! # let targets = vec![target(1), target(2)];
//! # let list = PublishedList::of(&targets, None).unwrap();
//! # let world = Observation {
//! #     now: 1_800_000_000, count: None, one_zone: None, targets, subnets: vec![subnet(1), subnet(2), subnet(3)],
//! #     published: Some(Published { version: 1, modified_at: None, list: Ok(list) }), deployed: None,
//! #     last_created: None, service: Ok(None), refusals: vec![], excluded: Excluded::default(),
//! # };
//! // Two targets, both published; a third zone has a subnet and no target.
//! let policy = Policy { threshold: 100_000, redeploy: false, ..Policy::default() };
//! let counted = |files| Observation { count: Some(FileCount { files, complete: true }), ..world.clone() };
//!
//! let nothing = Decision::Nothing { reason: Reason::BelowThreshold };
//! assert_eq!(decide(&counted(100_000), &policy), nothing);
//! assert!(matches!(decide(&counted(100_001), &policy), Decision::Create { zone_id, .. } if zone_id.as_str() == "az3"));
//! ```

pub mod codes;
pub mod config;
pub mod error;
pub mod explain;
pub mod ledger;
pub mod messages;
pub mod metric;
pub mod model;
pub mod policy;
pub mod ports;
pub mod published;
pub mod record;
pub mod redeployment;
pub mod rules;
