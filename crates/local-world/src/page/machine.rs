//! The drawing of the state machine: states in layers, each below the states that lead to it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// States and transitions.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    states: Vec<State>,
    transitions: Vec<Transition>,
}

#[derive(Debug, Serialize)]
struct State {
    name: String,
    kind: String,
    /// From the start.
    layer: usize,
    /// Position among the states of its layer.
    column: usize,
}

#[derive(Debug, Serialize)]
struct Transition {
    from: String,
    to: String,
    /// After an error.
    is_catch: bool,
}

impl Machine {
    /// From a definition in Amazon States Language. The states inside of a Map are not drawn.
    pub fn new(definition: &Value) -> Self {
        let states = definition["States"].as_object().cloned().unwrap_or_default();
        let mut transitions = Vec::new();
        for (from, state) in &states {
            let list = |key: &str| state[key].as_array().cloned().unwrap_or_default();
            let next = [&state["Next"], &state["Default"]].into_iter().cloned();
            let chosen = list("Choices").into_iter().map(|choice| choice["Next"].clone());
            let caught = list("Catch").into_iter().map(|catch| (catch["Next"].clone(), true));
            let all = next.chain(chosen).map(|to| (to, false)).chain(caught);
            for (to, is_catch) in all.filter_map(|(to, is_catch)| Some((to.as_str()?.to_owned(), is_catch))) {
                if !transitions.iter().any(|known: &Transition| known.from == *from && known.to == to) {
                    transitions.push(Transition { from: from.clone(), to, is_catch });
                }
            }
        }
        let layers = layers(definition["StartAt"].as_str().unwrap_or_default(), &transitions);
        let mut columns: BTreeMap<usize, usize> = BTreeMap::new();
        let states = states.iter().filter_map(|(name, state)| {
            let layer = *layers.get(name)?;
            let column = columns.entry(layer).or_default();
            *column += 1;
            let kind = state["Type"].as_str().unwrap_or_default().to_owned();
            Some(State { name: name.clone(), kind, layer, column: *column - 1 })
        });
        Self { states: states.collect(), transitions }
    }
}

/// The length of the longest way to each state without going back, by transitions that are not errors; a state that only
/// errors lead to is one below the first of these.
fn layers(start: &str, transitions: &[Transition]) -> BTreeMap<String, usize> {
    fn visit(
        name: &str,
        layer: usize,
        way: &mut Vec<String>,
        transitions: &[Transition],
        found: &mut BTreeMap<String, usize>,
    ) {
        if way.iter().any(|passed| passed == name) || found.get(name).is_some_and(|known| *known >= layer) {
            return;
        }
        found.insert(name.to_owned(), layer);
        way.push(name.to_owned());
        for transition in transitions.iter().filter(|transition| transition.from == name && !transition.is_catch) {
            visit(&transition.to, layer + 1, way, transitions, found);
        }
        way.pop();
    }
    let mut found = BTreeMap::new();
    visit(start, 0, &mut Vec::new(), transitions, &mut found);
    loop {
        let missing = transitions.iter().find(|transition| {
            transition.is_catch && found.contains_key(&transition.from) && !found.contains_key(&transition.to)
        });
        let Some(missing) = missing else { return found };
        let layer = found.get(&missing.from).copied().unwrap_or_default() + 1;
        visit(&missing.to, layer, &mut Vec::new(), transitions, &mut found);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_state_is_drawn_below_those_that_lead_to_it() {
        let text = include_str!("../../../../statemachine/autoscale.asl.json");
        let definition: Value = serde_json::from_str(text).unwrap();
        let machine = Machine::new(&definition);
        let all = definition["States"].as_object().unwrap();
        assert_eq!(machine.states.len(), all.len(), "each state can be reached");
        let start = machine.states.iter().find(|state| state.layer == 0).unwrap();
        assert_eq!(start.name, definition["StartAt"]);
        let mut places: Vec<_> = machine.states.iter().map(|state| (state.layer, state.column)).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), all.len(), "no two states are at one place");
        for transition in &machine.transitions {
            assert!(all.contains_key(&transition.from) && all.contains_key(&transition.to), "{transition:?}");
        }
    }

    #[test]
    fn a_loop_ends() {
        let definition = json!({"StartAt": "A", "States": {
            "A": {"Type": "Pass", "Next": "B"},
            "B": {"Type": "Choice", "Choices": [{"Next": "A"}], "Default": "C"},
            "C": {"Type": "Task", "End": true, "Catch": [{"Next": "D"}]},
            "D": {"Type": "Fail"},
        }});
        let machine = Machine::new(&definition);
        let layers: Vec<_> = machine.states.iter().map(|state| (state.name.as_str(), state.layer)).collect();
        assert_eq!(layers, [("A", 0), ("B", 1), ("C", 2), ("D", 3)]);
        assert_eq!(machine.transitions.len(), 4);
    }
}
