//! Slot words, and the protocol under every order in which memory may show what was written.
//!
//! A machine of views, as the C++ memory model's release and acquire are defined by: each word has
//! the list of all that was written to it, and a thread may read anything that is not older than
//! what it knows of. What it knows grows by what it reads, and by the views of writers that released
//! what it acquired. Readers write nothing that writers read, so all orders of a reader and any
//! number of writers are those of the reader's choices after the writers are through; all of them
//! are tried.

use super::*;
use std::cell::RefCell;

/// Words of the machine: two slots, and two places of two words.
const WORDS: usize = 6;
/// By word, the newest value that is known of.
type View = [usize; WORDS];

#[derive(Clone, Copy)]
struct Written {
    value: u64,
    /// What its writer released with it.
    view: View,
}

#[derive(Default)]
struct Machine {
    words: [Vec<Written>; WORDS],
    /// What the running thread knows, what it will know at an acquire fence, and what it has
    /// released at a release fence.
    known: View,
    acquired: View,
    released: View,
    is_reader: bool,
    /// Of the reader's loads: which of how many values it reads.
    choices: Vec<(usize, usize)>,
    loads: usize,
    broken: Option<Broken>,
}

/// What the machine leaves out.
#[derive(Clone, Copy, PartialEq)]
enum Broken {
    Fence(Ordering),
    Order(Ordering),
}

thread_local! {
    static MACHINE: RefCell<Machine> = RefCell::default();
}

fn with<R>(f: impl FnOnce(&mut Machine) -> R) -> R {
    MACHINE.with(|machine| f(&mut machine.borrow_mut()))
}

fn join(view: &mut View, other: View) {
    view.iter_mut().zip(other).for_each(|(a, b)| *a = b.max(*a));
}

/// A word by its number.
struct Word(usize);

const SLOTS: [Word; 2] = [Word(0), Word(1)];

/// Returns the words of an entry's place.
const fn payload(slot: Slot) -> [Word; 2] {
    let first = 2 + slot.start() * 2;
    [Word(first), Word(first + 1)]
}

impl Cell for Word {
    fn load(&self, order: Ordering) -> u64 {
        with(|m| {
            let newest = m.words[self.0].len() - 1;
            let mut at = newest;
            if m.is_reader {
                let oldest = m.known[self.0];
                if m.loads == m.choices.len() {
                    m.choices.push((0, newest - oldest + 1));
                }
                at = oldest + m.choices[m.loads].0;
                m.loads += 1;
            }
            let written = m.words[self.0][at];
            m.known[self.0] = at;
            join(&mut m.acquired, written.view);
            if order == Ordering::Acquire && m.broken != Some(Broken::Order(order)) {
                join(&mut m.known, written.view);
            }
            written.value
        })
    }

    fn store(&self, value: u64, order: Ordering) {
        with(|m| {
            assert!(!m.is_reader);
            m.known[self.0] = m.words[self.0].len();
            let releases = order == Ordering::Release && m.broken != Some(Broken::Order(order));
            let view = if releases { m.known } else { m.released };
            m.words[self.0].push(Written { value, view });
        });
    }

    fn fence(order: Ordering) {
        with(|m| {
            if m.broken == Some(Broken::Fence(order)) {
            } else if order == Ordering::Acquire {
                let acquired = m.acquired;
                join(&mut m.known, acquired);
            } else {
                m.released = m.known;
            }
        });
    }
}

/// An entry at one of the places.
fn at(start: usize) -> Slot {
    Slot::new(start, 1, Kind::Whole, Gone(0))
}

/// What writers do to slots; the payload says which slot and which version of it.
#[derive(Clone, Copy)]
enum Step {
    /// Hides a slot's entry.
    Hide(usize),
    /// Writes an entry of a slot to a place.
    Write(usize, usize),
    /// Moves a slot's entry to another place.
    Move(usize, usize),
}

fn write(slot: usize, start: usize, value: u64) {
    before_payload::<Word>();
    payload(at(start)).iter().for_each(|word| word.store(value, Ordering::Relaxed));
    publish(&SLOTS[slot], at(start));
}

/// Runs the steps, then a reader of each slot in all possible ways. Returns how many there were that
/// read a whole entry; `None` if one was torn.
fn explore(steps: &[Step], broken: Option<Broken>) -> Option<usize> {
    with(|m| {
        *m = Machine { broken, ..Machine::default() };
        m.words.iter_mut().for_each(|word| word.push(Written { value: 0, view: [0; WORDS] }));
    });
    // Slot words with what their entry says.
    let mut entries = Vec::new();
    for (&step, number) in steps.iter().zip(1u64..) {
        let (slot, value) = match step {
            Step::Hide(slot) => {
                hide(&SLOTS[slot]);
                continue;
            }
            Step::Write(slot, start) => {
                write(slot, start, number);
                (slot, number)
            }
            Step::Move(slot, start) => {
                let value = payload(peek(&SLOTS[slot]))[0].load(Ordering::Relaxed);
                hide(&SLOTS[slot]);
                write(slot, start, value);
                (slot, value)
            }
        };
        entries.push((slot, peek(&SLOTS[slot]), value));
    }
    let mut whole = 0;
    for (slot, cell) in SLOTS.iter().enumerate() {
        with(|m| m.choices.clear());
        loop {
            with(|m| {
                (m.is_reader, m.loads) = (true, 0);
                (m.known, m.acquired, m.released) = Default::default();
            });
            let result = read(cell, |read| {
                let words = payload(read).map(|word| word.load(Ordering::Relaxed));
                (read, words)
            });
            if let Read::Whole((read, words)) = result {
                let entry = entries.iter().find(|(s, word, _)| (*s, *word) == (slot, read));
                if entry.is_none_or(|(_, _, value)| words != [*value; 2]) {
                    return None;
                }
                whole += 1;
            }
            // The next way: the last choice that is left.
            let is_left = with(|m| {
                m.choices.truncate(m.loads);
                while m.choices.last().is_some_and(|(choice, of)| choice + 1 == *of) {
                    m.choices.pop();
                }
                m.choices.last_mut().map(|last| last.0 += 1).is_some()
            });
            if !is_left {
                break;
            }
        }
    }
    Some(whole)
}

/// All that a table does to slots: an entry is overwritten in its place, its memory is taken by
/// another one, it moves and another one takes its old place, it comes back to where it was.
const STORIES: [&[Step]; 5] = [
    &[Step::Write(0, 0), Step::Hide(0), Step::Write(0, 0), Step::Hide(0), Step::Write(0, 0)],
    &[Step::Write(0, 0), Step::Hide(0), Step::Write(1, 0), Step::Hide(1), Step::Write(0, 0)],
    &[Step::Write(0, 1), Step::Write(1, 0), Step::Hide(1), Step::Move(0, 0), Step::Write(1, 1)],
    &[
        Step::Write(0, 0),
        Step::Write(1, 1),
        Step::Hide(0),
        Step::Move(1, 0),
        Step::Move(1, 1),
        Step::Write(0, 0),
    ],
    &[
        Step::Write(0, 0),
        Step::Write(1, 1),
        Step::Hide(0),
        Step::Hide(1),
        Step::Write(1, 0),
        Step::Write(0, 1),
    ],
];

#[test]
fn no_order_of_memory_shows_a_torn_entry() {
    for story in STORIES {
        assert!(explore(story, None).expect("an entry was torn") > 1);
    }
}

#[test]
fn each_fence_and_order_is_needed() {
    for broken in
        [Broken::Fence, Broken::Order].iter().flat_map(|b| [Ordering::Acquire, Ordering::Release].map(b))
    {
        assert!(STORIES.iter().any(|story| explore(story, Some(broken)).is_none()));
    }
}

#[test]
fn slots_keep_what_they_are_made_of() {
    for kind in [Kind::Whole, Kind::Head, Kind::Part] {
        let gone = Gone::of(1_000_000, 999_000);
        let slot = Slot::new(127, 126, kind, gone);
        assert_eq!((slot.start(), slot.size(), slot.kind(), slot.gone()), (127, 126, kind, gone));
        assert_eq!((slot.moved(3).start(), slot.moved(3).size(), slot.moved(3).kind()), (3, 126, kind));
        let cell = AtomicU64::new(u64::MAX);
        publish(&cell, slot);
        assert_eq!(peek(&cell), slot, "the version has wrapped to 0");
        hide(&cell);
        assert_eq!((peek(&cell).size(), cell.load(Ordering::Relaxed)), (0, 1 << 32));
    }
}

#[test]
fn gone_never_comes_early_and_at_most_two_units_late() {
    for now in [0, 1, 63, 64, 65, 4_194_303, 4_194_304, u32::MAX - 2_000_000] {
        for ttl in [0, 1, 63, 64, 1000, 86_400, GONE_MAX_S] {
            let gone = Gone::of(now + ttl, now);
            assert!(ttl == 0 || !gone.has_come(now + ttl - 1));
            assert!(gone.has_come(now + ttl + GONE_UNIT_S), "{now} {ttl}");
        }
        assert!(!Gone::of(u32::MAX, now).has_come(now + GONE_MAX_S - 1));
    }
}
