//! All states of an expression in one small table, which every shard reads: names are searched for in
//! thousands of expressions, whose tables should stay in the processor's cache.

use std::collections::BTreeMap;

use regex_automata::Anchored;
use regex_automata::dfa::{Automaton, dense};
use regex_automata::util::{primitives::StateID, start};

/// The expression cannot match.
const NO: u16 = 0;
/// It matches, whatever follows.
const YES: u16 = 1;
/// The first of the other states; each is where its row is in the table, and this.
const FIRST: u16 = 2;
/// The class of the end of a text.
const END: u8 = 0;
/// What texts consist of.
const BYTES: std::ops::RangeInclusive<u8> = 0x21..=0x7e;

/// The states of one expression.
#[derive(Debug)]
pub(super) struct Table {
    /// By byte: the same for those which no state tells apart.
    classes: [u8; 128],
    start: u16,
    /// By state and class.
    next: Box<[u16]>,
}

impl Table {
    /// Returns the table of an automaton that finds the expression anywhere; none if it has too many states.
    pub(super) fn new(dfa: &dense::DFA<Vec<u32>>) -> Option<Self> {
        let mut states = States::default();
        let start =
            states.number(dfa, dfa.start_state(&start::Config::new().anchored(Anchored::No)).ok()?)?;
        let mut rows = Vec::new();
        while let Some(state) = states.all.get(rows.len()).copied() {
            let bytes = BYTES.map(|byte| dfa.next_state(state, byte));
            let nexts = std::iter::once(dfa.next_eoi_state(state)).chain(bytes);
            rows.push(nexts.map(|next| states.number(dfa, next)).collect::<Option<Vec<_>>>()?);
        }
        let mut known = BTreeMap::from([(rows.iter().map(|row| row.first()).collect::<Vec<_>>(), END)]);
        let (mut columns, mut last) = (vec![0], END);
        let mut classes = [END; 128];
        for (column, byte) in (1..).zip(BYTES) {
            let class = known.entry(rows.iter().map(|row| row.get(column)).collect()).or_insert_with(|| {
                columns.push(column);
                last += 1;
                last
            });
            classes[usize::from(byte)] = *class;
        }
        let place = |number: u16| match number {
            NO | YES => Some(number),
            _ => u16::try_from(usize::from(number - FIRST) * columns.len() + usize::from(FIRST)).ok(),
        };
        let next = rows.iter().flat_map(|row| columns.iter().map(|column| place(row[*column])));
        Some(Self { classes, start: place(start)?, next: next.collect::<Option<_>>()? })
    }

    /// Returns whether the expression matches some part of a text of visible ASCII.
    pub(super) fn is_in(&self, text: &[u8]) -> bool {
        let mut state = self.start;
        for byte in text {
            if state < FIRST {
                return state == YES;
            }
            state = self.next(state, self.classes[usize::from(byte & 0x7f)]);
        }
        state == YES || state >= FIRST && self.next(state, END) == YES
    }

    fn next(&self, state: u16, class: u8) -> u16 {
        self.next.get(usize::from(state - FIRST) + usize::from(class)).copied().unwrap_or(NO)
    }
}

/// The states that can be reached.
#[derive(Default)]
struct States {
    all: Vec<StateID>,
    numbers: BTreeMap<StateID, u16>,
}

impl States {
    /// Returns the number of a state; none if there are too many.
    fn number(&mut self, dfa: &dense::DFA<Vec<u32>>, state: StateID) -> Option<u16> {
        if dfa.is_match_state(state) {
            return Some(YES);
        }
        if dfa.is_special_state(state) && (dfa.is_dead_state(state) || dfa.is_quit_state(state)) {
            return Some(NO);
        }
        if let Some(number) = self.numbers.get(&state) {
            return Some(*number);
        }
        let number = u16::try_from(self.all.len()).ok()?.checked_add(FIRST)?;
        self.all.push(state);
        self.numbers.insert(state, number);
        Some(number)
    }
}
