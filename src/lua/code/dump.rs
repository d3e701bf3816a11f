//! Reads functions as LuaJIT dumps them: instructions, constants, lines.
//!
//! ```text
//!  dump      = ESC "LJ" version flags [length name] prototype* 0     (numbers are ULEB128)
//!  prototype = length  flags parameters frame upvalues(n)  constants(n) numbers(n) instructions(n)
//!              [debug length, first line, lines]  instruction*  upvalue*  constant*  number*  [debug]
//!  instruction  bits 0..8 operation, 8..16 A, 16..24 C, 24..32 B; C and B together are D
//! ```
//!
//! A prototype comes after those within it. Anything unexpected makes the whole unreadable: then
//! nothing is known of the code, and it is not checked.

/// The code of a file, or of one function.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// Its name: that of a file begins with `@`.
    pub(crate) name: String,
    /// The outermost function.
    pub(crate) root: Prototype,
}

/// A function.
#[derive(Debug)]
pub(crate) struct Prototype {
    /// Its instructions, with the line of each.
    pub(crate) instructions: Vec<(Instruction, u32)>,
    /// The line that it begins in.
    pub(crate) first_line: u32,
    /// By the number that instructions contain.
    constants: Vec<Constant>,
    /// Where the function around it has what it shares with that.
    shared: Vec<u16>,
}

/// A constant of a function.
#[derive(Debug)]
enum Constant {
    Text(Box<[u8]>),
    Function(Prototype),
    Other,
}

/// An instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instruction {
    /// The operation.
    pub(crate) op: u8,
    /// The first operand.
    pub(crate) a: u8,
    /// The second operand, of three.
    pub(crate) b: u8,
    /// The third.
    pub(crate) c: u8,
}

impl Instruction {
    /// Returns the second operand, of two.
    pub(crate) fn d(self) -> usize {
        usize::from(self.b) << 8 | usize::from(self.c)
    }
}

impl Prototype {
    /// Returns a constant that is a text.
    pub(crate) fn text(&self, at: usize) -> Option<&str> {
        match self.constants.get(at)? {
            Constant::Text(text) => std::str::from_utf8(text).ok(),
            Constant::Function(_) | Constant::Other => None,
        }
    }

    /// Returns a constant that is a function.
    pub(crate) fn function(&self, at: usize) -> Option<&Self> {
        match self.constants.get(at)? {
            Constant::Function(function) => Some(function),
            Constant::Text(_) | Constant::Other => None,
        }
    }

    /// Returns, for each value that it shares with the function around it, its number among those that
    /// that one shares itself; none for a local variable of that function.
    pub(crate) fn outer(&self) -> impl Iterator<Item = Option<usize>> {
        /// Flag of a local variable.
        const LOCAL: u16 = 0x8000;
        self.shared.iter().map(|place| (place & LOCAL == 0).then_some(usize::from(*place)))
    }

    /// Returns the texts among its constants.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        (0..self.constants.len()).filter_map(|at| self.text(at))
    }

    /// Returns the functions within it.
    pub(crate) fn functions(&self) -> impl Iterator<Item = &Self> {
        (0..self.constants.len()).filter_map(|at| self.function(at))
    }
}

/// The version of LuaJIT's format, and of its numbers of operations.
const VERSION: u8 = 2;
/// Flag: the other byte order.
const BIG_ENDIAN: u8 = 1;
/// Flag: there is no debug information.
const STRIPPED: u8 = 2;
/// Flag: between a called function and its arguments is a free slot.
const TWO_SLOTS: u8 = 8;
/// Kinds of constants: a function, a table, numbers of two and four parts; a text's is this and its
/// length.
const FUNCTION: u32 = 0;
const TABLE: u32 = 1;
const I64: u32 = 2;
const U64: u32 = 3;
const COMPLEX: u32 = 4;
const TEXT: u32 = 5;

/// Reads a dump.
pub(crate) fn read(dump: &[u8]) -> Option<Chunk> {
    let mut from = Bytes(dump);
    let [_, _, _, version, flags] = *from.take(5)?.first_chunk()?;
    let is_known = dump.starts_with(b"\x1bLJ") && version == VERSION;
    if !is_known || flags & (BIG_ENDIAN | STRIPPED) != 0 || flags & TWO_SLOTS == 0 {
        return None;
    }
    let length = from.size()?;
    let name = String::from_utf8_lossy(from.take(length)?).into_owned();
    let mut waiting = Vec::new();
    loop {
        let length = from.size()?;
        if length == 0 {
            break;
        }
        let read = prototype(&mut Bytes(from.take(length)?), &mut waiting)?;
        waiting.push(read);
    }
    let root = waiting.pop().filter(|_| waiting.is_empty())?;
    Some(Chunk { name, root })
}

/// Reads one function; those within it are the last of `waiting`.
fn prototype(from: &mut Bytes<'_>, waiting: &mut Vec<Prototype>) -> Option<Prototype> {
    let [_, _, _, upvalues] = *from.take(4)?.first_chunk()?;
    let (constants, numbers, instructions) = (from.size()?, from.size()?, from.size()?);
    let debug = from.size()?;
    let (first_line, lines) = if debug > 0 { (from.number()?, from.size()?) } else { (0, 0) };
    let code = from.take(instructions.checked_mul(4)?)?;
    let places = from.take(usize::from(upvalues) * 2)?.as_chunks::<2>().0;
    let shared = places.iter().map(|two| u16::from_le_bytes(*two)).collect();
    let mut read = Vec::new();
    for _ in 0..constants {
        read.push(constant(from, waiting)?);
    }
    // Instructions count from the last one.
    read.reverse();
    for _ in 0..numbers {
        // The lowest bit of 33 says whether a second half follows.
        if from.wide()? & 1 == 1 {
            from.number()?;
        }
    }
    let width = if lines < 1 << 8 {
        1
    } else if lines < 1 << 16 {
        2
    } else {
        4
    };
    let debug = from.take(debug)?;
    let line = |at: usize| {
        let bytes = debug.get(at * width..(at + 1) * width).unwrap_or_default();
        first_line + bytes.iter().rev().fold(0, |n, byte| n << 8 | u32::from(*byte))
    };
    let instruction = |four: &[u8]| match *four {
        [op, a, c, b] => Instruction { op, a, b, c },
        _ => Instruction { op: u8::MAX, a: 0, b: 0, c: 0 },
    };
    let code = code.chunks_exact(4).enumerate();
    Some(Prototype {
        instructions: code.map(|(at, four)| (instruction(four), line(at))).collect(),
        first_line,
        constants: read,
        shared,
    })
}

fn constant(from: &mut Bytes<'_>, waiting: &mut Vec<Prototype>) -> Option<Constant> {
    match from.number()? {
        FUNCTION => return Some(Constant::Function(waiting.pop()?)),
        TABLE => {
            let (items, pairs) = (from.size()?, from.size()?);
            for _ in 0..items.checked_add(pairs.checked_mul(2)?)? {
                match from.number()? {
                    0..=2 => {}
                    3 => drop(from.number()?),
                    4 => drop((from.number()?, from.number()?)),
                    text => drop(from.take(usize::try_from(text - TEXT).ok()?)?),
                }
            }
        }
        I64 | U64 => drop((from.number()?, from.number()?)),
        COMPLEX => drop((from.number()?, from.number()?, from.number()?, from.number()?)),
        text => return Some(Constant::Text(from.take(usize::try_from(text - TEXT).ok()?)?.into())),
    }
    Some(Constant::Other)
}

/// What is left to read.
struct Bytes<'d>(&'d [u8]);

impl<'d> Bytes<'d> {
    fn take(&mut self, length: usize) -> Option<&'d [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn wide(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = u64::from(*self.take(1)?.first()?);
            number |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn number(&mut self) -> Option<u32> {
        u32::try_from(self.wide()?).ok()
    }

    fn size(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }
}
