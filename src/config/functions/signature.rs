//! The arguments of a function as the reference shows them, and what follows from that text: how
//! many there may be, what messages call them, and what they are when they are omitted.

/// The arguments of a function, as `"qps [, burst=qps]"`.
///
/// Commas separate arguments. Brackets enclose those that may be omitted. `|` separates the forms of
/// one argument, ` or ` the forms of the whole. After `=` stands what an omitted argument is: a
/// number, true, false, or what an earlier argument is. What is within braces, parentheses or quotes
/// describes one argument.
#[derive(Clone, Copy, Debug)]
pub struct Signature(&'static str);

/// What an omitted argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// A switch.
    Switch(bool),
    /// A number.
    Number(u32),
    /// What this argument is.
    Argument(usize),
}

/// What messages call arguments that have no name.
const ORDINALS: [&str; 4] =
    ["the first argument", "the second argument", "the third argument", "an argument"];

impl Signature {
    /// Creates a signature of its text.
    #[must_use]
    pub const fn new(text: &'static str) -> Self {
        Self(text)
    }

    /// Returns the text.
    #[must_use]
    pub const fn text(self) -> &'static str {
        self.0
    }

    /// Returns the most arguments that there may be.
    #[must_use]
    pub fn most(self) -> usize {
        self.0.split(" or ").map(|form| arguments(form).count()).max().unwrap_or(0)
    }

    /// Returns the least arguments that there must be: what stands before the first bracket.
    #[must_use]
    pub fn least(self) -> usize {
        let required = |form: &'static str| {
            let (mut depth, mut quoted) = (0_usize, false);
            let end = form.find(|c: char| {
                match c {
                    '"' => quoted = !quoted,
                    '{' | '(' if !quoted => depth += 1,
                    '}' | ')' if !quoted => depth = depth.saturating_sub(1),
                    _ => {}
                }
                c == '[' && depth == 0 && !quoted
            });
            arguments(&form[..end.unwrap_or(form.len())]).count()
        };
        self.0.split(" or ").map(required).min().unwrap_or(0)
    }

    /// Returns what messages call an argument: its name, if it has one; nothing, if it is the only
    /// one, since the message names the function.
    #[must_use]
    pub fn what(self, n: usize) -> &'static str {
        if self.most() == 1 {
            return "";
        }
        let name = self.argument(n).map(|a| a.split('=').next().unwrap_or(a)).filter(|name| is_name(name));
        name.unwrap_or(ORDINALS[n.min(ORDINALS.len() - 1)])
    }

    /// Returns what an omitted argument is.
    #[must_use]
    pub fn preset(self, n: usize) -> Option<Preset> {
        let (name, value) = self.argument(n)?.split_once('=')?;
        match value {
            _ if !is_name(name) => None,
            "true" => Some(Preset::Switch(true)),
            "false" => Some(Preset::Switch(false)),
            _ => value.parse().map(Preset::Number).ok().or_else(|| {
                (0..n).find(|before| self.argument(*before) == Some(value)).map(Preset::Argument)
            }),
        }
    }

    /// Returns the text of an argument.
    fn argument(self, n: usize) -> Option<&'static str> {
        self.0.split(" or ").find_map(|form| arguments(form).nth(n))
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Splits a form into its arguments, without the brackets around them.
fn arguments(form: &'static str) -> impl Iterator<Item = &'static str> {
    let (mut depth, mut quoted) = (0_usize, false);
    let parts = form.split(move |c: char| {
        match c {
            '"' => quoted = !quoted,
            '{' | '(' if !quoted => depth += 1,
            '}' | ')' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0 && !quoted
    });
    parts.map(|part| part.trim_matches(['[', ']', ' '])).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_counted() {
        for (text, most) in [
            ("", 0),
            ("rule", 1),
            ("set | name | {name, ...} [, quiet=false]", 2),
            ("\"IP[:PORT]\" [, addECS=false [, source]]", 3),
            (
                "qps [, v4=32 [, v6=64 [, burst=qps [, expiration=300 [, cleanupDelay, scanFraction, shards]]]]]",
                8,
            ),
            ("name, function(servers, dq), pool", 3),
            ("[{showUUIDs=false, truncateRuleWidth=-1}]", 1),
            ("address [, {...}] or address, doTCP [, reusePort [, tcpFastOpenQueueSize]]", 4),
            ("network | address, length", 2),
        ] {
            assert_eq!(Signature::new(text).most(), most, "{text}");
        }
        for (text, least) in [
            ("", 0),
            ("rule", 1),
            ("\"IP[:PORT]\" [, addECS=false [, source]]", 1),
            ("name, function(servers, dq), pool", 3),
            ("[{showUUIDs=false, truncateRuleWidth=-1}]", 0),
            ("a, b or c [, d]", 1),
        ] {
            assert_eq!(Signature::new(text).least(), least, "{text}");
        }
    }

    #[test]
    fn arguments_have_names_and_presets() {
        let limits = Signature::new("qps [, v4=32 [, burst=qps [, quiet=false]]]");
        assert_eq!([0, 1, 2, 3].map(|n| limits.what(n)), ["qps", "v4", "burst", "quiet"]);
        assert_eq!(
            [0, 1, 2, 3].map(|n| limits.preset(n)),
            [None, Some(Preset::Number(32)), Some(Preset::Argument(0)), Some(Preset::Switch(false))]
        );
        let forms = Signature::new("a | {b} [, {c=1}] or a, d [, e=true]");
        assert_eq!([0, 1, 2].map(|n| forms.what(n)), ["the first argument", "the second argument", "e"]);
        assert_eq!([0, 1, 2].map(|n| forms.preset(n)), [None, None, Some(Preset::Switch(true))]);
        assert_eq!(Signature::new("code").what(0), "");
    }
}
