//! Which of the results that were found go together.
//!
//! A key says how a layer came about and not what it is: two runs of one step have one key and two layers, where the step takes
//! the time, or something from the network. What was made above one of them is nothing to put above the other; so a result counts
//! only above the very layers that it was made above. Of what was found, in whatever caches, the longest chain from the base
//! on is taken; of chains that are as long, the one that is nearer.

use std::collections::{BTreeMap, BTreeSet};

use super::lookup::Known;
use crate::image::Digest;
use crate::plan::{Base, Key, Plan, StageIndex, layers_key};

/// A step of a plan.
pub(super) type At = (StageIndex, usize);

/// All that was found of steps' results, of each step the nearest first.
#[derive(Debug, Default)]
pub(super) struct Results {
    found: BTreeMap<At, Vec<Known>>,
    stale: BTreeSet<At>,
}

/// Results that stand above each other, the lowest first.
#[derive(Debug, Default, Clone)]
struct Chain<'a> {
    steps: Vec<&'a Known>,
    diff_ids: Vec<Digest>,
}

impl Results {
    /// Adds a result of a step, farther than those that are there.
    pub fn add(&mut self, at: At, known: Known) {
        self.found.entry(at).or_default().push(known);
    }

    /// Notes that a step has a result which is too old to be used.
    pub fn add_stale(&mut self, at: At) {
        self.stale.insert(at);
    }

    /// Whether a step has a result which is too old to be used.
    pub fn is_stale(&self, at: At) -> bool {
        self.stale.contains(&at)
    }

    /// Whether a step has a result, be it one that does not go together with others.
    pub fn has(&self, at: At) -> bool {
        self.found.contains_key(&at)
    }

    /// The results of a step that was made above these layers by this very key, though others were below it when keys were looked
    /// up: what is below it was carried out again, and came out the same.
    pub fn above(&self, at: At, layers: &Key) -> Option<&Known> {
        self.found.get(&at)?.iter().find(|known| known.record.above == Some(*layers))
    }

    /// Those that go together: first for the target and what it is built upon, then for all other stages.
    pub fn choose(&self, plan: &Plan) -> BTreeMap<At, Known> {
        let mut chosen = BTreeMap::new();
        let mut settled = BTreeSet::new();
        for index in [plan.target].into_iter().chain(plan.stages.iter().rev().map(|stage| stage.index)) {
            if settled.contains(&index) {
                continue;
            }
            let stages = upwards(plan, index);
            let steps = stages.iter().flat_map(|stage| {
                let steps = plan.stage(*stage).map_or(0, |stage| stage.steps.len());
                (0..steps).map(|number| (*stage, number))
            });
            let steps: Vec<At> = steps.collect();
            let of = |at: &At| match settled.contains(&at.0) {
                true => chosen.get(at).into_iter().collect::<Vec<_>>(),
                false => self.found.get(at).into_iter().flatten().collect(),
            };
            let known: Vec<Known> = longest(steps.iter().map(of)).into_iter().cloned().collect();
            chosen.extend(steps.into_iter().zip(known));
            settled.extend(stages);
        }
        chosen
    }
}

/// A stage and those it is built upon, the lowest first.
fn upwards(plan: &Plan, index: StageIndex) -> Vec<StageIndex> {
    let mut stages = vec![index];
    let mut current = plan.stage(index);
    while let Some(Base::Stage(base)) = current.map(|stage| &stage.base) {
        stages.push(*base);
        current = plan.stage(*base);
    }
    stages.reverse();
    stages
}

/// The longest chain, given what was found of each step from the lowest on.
fn longest<'a>(found: impl Iterator<Item = Vec<&'a Known>>) -> Vec<&'a Known> {
    let mut chains = vec![Chain::default()];
    for results in found {
        let mut longer: Vec<Chain<'a>> = Vec::new();
        for (number, chain) in chains.iter().enumerate() {
            let layers = layers_key(&chain.diff_ids);
            for known in results.iter().filter(|known| fits(known, chain, &layers, number == 0)) {
                let mut next = chain.clone();
                next.steps.push(known);
                next.diff_ids.push(known.record.diff_id);
                if longer.iter().all(|other| other.diff_ids != next.diff_ids) {
                    longer.push(next);
                }
            }
        }
        if longer.is_empty() {
            break;
        }
        chains = longer;
    }
    chains.into_iter().next().map(|chain| chain.steps).unwrap_or_default()
}

/// Whether a result was made above a chain. Versions before did not note that: then it counts if nothing below was made after it,
/// and only above the nearest chain, so that there are never more chains than results.
fn fits(known: &Known, chain: &Chain<'_>, layers: &Key, is_nearest: bool) -> bool {
    match known.record.above {
        Some(above) => above == *layers,
        None => is_nearest && chain.steps.last().is_none_or(|last| last.record.made <= known.record.made),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::layers::Layer;
    use crate::cache::LayerRecord;
    use rstest::rstest;

    /// A result in words: its layer, what that was made above (`?` if that is not known), when, where it is.
    fn known(words: &str) -> Known {
        let words: Vec<&str> = words.split(' ').collect();
        let above = |text: &str| {
            let layers: Vec<Digest> = text
                .split('+')
                .filter(|layer| *layer != "-")
                .map(|layer| Digest::of(layer.as_bytes()))
                .collect();
            layers_key(&layers)
        };
        let record = LayerRecord {
            digest: Digest::of(words[0].as_bytes()),
            size: 1,
            media_type: String::new(),
            diff_id: Digest::of(words[0].as_bytes()),
            compression: String::new(),
            created: String::new(),
            made: words[2].parse().unwrap(),
            title: words[0].to_owned(),
            above: (words[1] != "?").then(|| above(words[1])),
        };
        Known { layer: Layer::of_record(&record), record, from: words[3].to_owned() }
    }

    /// Steps are divided by `/`, the results of each by commas, the nearest first.
    #[rstest]
    #[case::of_one_run("X - 1 store / Y X 1 store", "X@store Y@store")]
    #[case::never_of_two("X - 1 store / Y Other 1 far", "X@store")]
    #[case::the_longest_as_a_whole("X2 - 1 store, X1 - 1 far / Y X1 1 far", "X1@far Y@far")]
    #[case::the_nearest_of_equals(
        "X2 - 1 store, X1 - 1 far / Y2 X2 1 store, Y1 X1 1 far",
        "X2@store Y2@store"
    )]
    #[case::one_layer_from_two_places("X - 1 store, X - 1 far / Y X 1 far", "X@store Y@far")]
    #[case::nothing_above_a_gap("X - 1 store / / Z X+Y 1 store", "X@store")]
    #[case::nothing_below("/ Y X 1 store", "")]
    #[case::records_of_before("X ? 1 store / Y ? 1 store / Z X+Y 2 store", "X@store Y@store Z@store")]
    #[case::a_record_of_before_above_a_younger("X ? 3 store / Y ? 2 store", "X@store")]
    #[case::a_way_that_ends(
        "X2 - 1 store, X1 - 1 far / Y2 X2 1 store, Y1 X1 1 far / Z X1+Y1 1 far",
        "X1@far Y1@far Z@far"
    )]
    fn layers_of_two_runs_are_never_mixed(#[case] found: &str, #[case] expected: &str) {
        let results = |step: &str| {
            let of = step.split(',').map(str::trim).filter(|words| !words.is_empty());
            of.map(known).collect::<Vec<Known>>()
        };
        let found: Vec<Vec<Known>> = found.split('/').map(results).collect();
        let chain = longest(found.iter().map(|step| step.iter().collect()));
        let chain: Vec<String> =
            chain.iter().map(|known| format!("{}@{}", known.record.title, known.from)).collect();
        assert_eq!(chain.join(" "), expected);
    }
}
