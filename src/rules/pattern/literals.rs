//! The literals without which an expression cannot match: a search for those of all expressions at
//! once tells which few are worth being searched for.
//!
//! ```text
//!  ^ads[0-9]+[.]example[.]com$    needs   .example.com
//!  (badsite|worse)[.]test$        needs   badsite or worse, which are longer than .test
//! ```

use regex_syntax::hir::{Class, Hir, HirKind};

/// Bytes of the shortest literal that tells expressions apart.
const LEN_MIN: usize = 3;
/// Alternatives of an expression at most: each makes the search for all larger.
const ALTERNATIVES_MAX: usize = 64;

/// Returns literals in lower case, one of which is in each text that the expression matches, whatever
/// the letter case; none if there are no such, or they are too short or too many.
pub(super) fn required(expression: &Hir) -> Option<Vec<Vec<u8>>> {
    match expression.kind() {
        HirKind::Capture(capture) => required(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => required(&repetition.sub),
        HirKind::Concat(parts) => of_sequence(parts),
        HirKind::Alternation(branches) => {
            let mut all = Vec::new();
            for branch in branches {
                all.extend(required(branch)?);
                if all.len() > ALTERNATIVES_MAX {
                    return None;
                }
            }
            Some(all)
        }
        HirKind::Literal(_) | HirKind::Class(_) => of_sequence(std::slice::from_ref(expression)),
        HirKind::Empty | HirKind::Look(_) | HirKind::Repetition(_) => None,
    }
}

/// Returns the best that a sequence needs: the set whose shortest literal is longest.
fn of_sequence(parts: &[Hir]) -> Option<Vec<Vec<u8>>> {
    let mut best: Option<Vec<Vec<u8>>> = None;
    let mut offer = |set: Vec<Vec<u8>>| {
        let shortest = |set: &[Vec<u8>]| set.iter().map(Vec::len).min().unwrap_or(0);
        let least = best.as_deref().map_or(LEN_MIN, |best| shortest(best) + 1);
        if shortest(&set) >= least {
            best = Some(set);
        }
    };
    let mut run = Vec::new();
    for part in parts {
        if matches!(part.kind(), HirKind::Look(_)) {
            continue;
        }
        if !append(part, &mut run) {
            offer(vec![std::mem::take(&mut run)]);
            // A class of several letters has nothing inside.
            let inside = if matches!(part.kind(), HirKind::Class(_)) { None } else { required(part) };
            if let Some(set) = inside {
                offer(set);
            }
        }
    }
    offer(vec![run]);
    best
}

/// Appends what a part of an expression always matches; returns false when that is not one literal.
fn append(part: &Hir, run: &mut Vec<u8>) -> bool {
    match part.kind() {
        HirKind::Literal(literal) => {
            run.extend(literal.0.iter().map(u8::to_ascii_lowercase));
            true
        }
        HirKind::Class(Class::Bytes(class)) => {
            let mut bytes = class.ranges().iter().flat_map(|range| range.start()..=range.end());
            // A class of a letter in both cases.
            let (Some(first), second, None) = (bytes.next(), bytes.next(), bytes.next()) else {
                return false;
            };
            let is_letter = second.is_none_or(|second| second.eq_ignore_ascii_case(&first));
            if is_letter {
                run.push(first.to_ascii_lowercase());
            }
            is_letter
        }
        HirKind::Capture(capture) => append(&capture.sub, run),
        HirKind::Empty
        | HirKind::Class(Class::Unicode(_))
        | HirKind::Look(_)
        | HirKind::Repetition(_)
        | HirKind::Concat(_)
        | HirKind::Alternation(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex_automata::util::syntax;

    #[test]
    fn literals_that_an_expression_needs_are_found() {
        for (text, expected) in [
            ("(?i:^ads[0-9]+[.]example[.]com$)", Some(vec![".example.com"])),
            ("(?i:(badsite|worse)[.]test$)", Some(vec!["badsite", "worse"])),
            ("(?i:(track|ads)er)", Some(vec!["track", "ads"])),
            ("(?i:x*longest.*short)", Some(vec!["longest"])),
            ("(?i:(abc)+)", Some(vec!["abc"])),
            ("(?i:(abc)*)", None),
            ("(?i:abc|.)", None),
            ("(?i:ab)", None),
            ("(?i:[xy]{5})", None),
            (r"\A(?:a(BC)d)\z", Some(vec!["abcd"])),
            ("", None),
        ] {
            let parsed = syntax::parse_with(text, &crate::rules::pattern::syntax_config()).expect(text);
            let expected: Option<Vec<Vec<u8>>> =
                expected.map(|all| all.into_iter().map(|l| l.as_bytes().to_vec()).collect());
            assert_eq!(required(&parsed), expected, "{text}");
        }
    }
}
