//! What runs costs a month, at the list prices of docs/reference/costs.md.

use schemars::JsonSchema;
use serde::Serialize;

/// AWS counts a month as so many hours.
const HOURS: f64 = 730.0;
const GIB: f64 = 1_073_741_824.0;

// US dollars in us-east-1, 2026.
const FARGATE_ARM_VCPU_HOUR: f64 = 0.03238;
const FARGATE_ARM_GB_HOUR: f64 = 0.00356;
const FARGATE_X86_VCPU_HOUR: f64 = 0.04048;
const FARGATE_X86_GB_HOUR: f64 = 0.004_445;
const ENDPOINT_HOUR: f64 = 0.01;
const BALANCER_HOUR: f64 = 0.0225;
const ALARM_MONTH: f64 = 0.10;
const STORAGE_GB_MONTH: f64 = 0.30;
const INFREQUENT_ACCESS_GB_MONTH: f64 = 0.025;
const TRANSITION: f64 = 0.025 / 1_000.0;

/// One line of the bill.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Item {
    pub item: String,
    /// US dollars a month.
    pub usd: f64,
}

/// What runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Running {
    pub tasks: i32,
    /// CPU units of one task: 1024 are a vCPU.
    pub task_cpu: f64,
    /// MiB of one task.
    pub task_memory: f64,
    pub arm: bool,
    /// Network interfaces of VPC endpoints.
    pub endpoint_interfaces: usize,
    pub balancers: usize,
    pub alarms: usize,
    pub standard_bytes: f64,
    pub infrequent_bytes: f64,
    /// Transitions of the state machine a month.
    pub transitions: f64,
}

/// The items that are not zero, the largest first.
pub fn items(running: &Running) -> Vec<Item> {
    let (vcpu, gb) = match running.arm {
        true => (FARGATE_ARM_VCPU_HOUR, FARGATE_ARM_GB_HOUR),
        false => (FARGATE_X86_VCPU_HOUR, FARGATE_X86_GB_HOUR),
    };
    let task = (running.task_cpu / 1024.0 * vcpu + running.task_memory / 1024.0 * gb) * HOURS;
    let all = [
        (format!("Fargate, {} tasks", running.tasks), f64::from(running.tasks) * task),
        (
            format!("VPC endpoints, {} interfaces", running.endpoint_interfaces),
            running.endpoint_interfaces as f64 * ENDPOINT_HOUR * HOURS,
        ),
        ("load balancer, without its LCUs".to_owned(), running.balancers as f64 * BALANCER_HOUR * HOURS),
        (format!("{} alarms", running.alarms), running.alarms as f64 * ALARM_MONTH),
        (
            format!("EFS storage, {:.1} GB", (running.standard_bytes + running.infrequent_bytes) / GIB),
            running.standard_bytes / GIB * STORAGE_GB_MONTH
                + running.infrequent_bytes / GIB * INFREQUENT_ACCESS_GB_MONTH,
        ),
        ("Step Functions".to_owned(), running.transitions * TRANSITION),
    ];
    let mut items: Vec<_> = all
        .into_iter()
        .map(|(item, usd)| Item { item, usd: (usd * 100.0).round() / 100.0 })
        .filter(|item| item.usd > 0.0)
        .collect();
    items.sort_by(|a, b| b.usd.total_cmp(&a.usd));
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_settings_cost_what_the_documents_say() {
        // docs/reference/costs.md: 3 tasks on arm64 173, endpoints 131, the balancer 16, alarms 3, Step Functions 2.
        let running = Running {
            tasks: 3,
            task_cpu: 2048.0,
            task_memory: 4096.0,
            arm: true,
            endpoint_interfaces: 18,
            balancers: 1,
            alarms: 30,
            transitions: 8_640.0 * 9.0,
            ..Running::default()
        };
        let rounded: Vec<_> = items(&running).iter().map(|item| item.usd.round()).collect();
        assert_eq!(rounded, [173.0, 131.0, 16.0, 3.0, 2.0]);
        assert_eq!(items(&Running::default()), []);
    }
}
