//! GET /api/v2/top: a list of the most frequent clients, names and so on.

use serde_json::{Value, json};

use crate::control::api::rounded;
use crate::stats::top::{LISTS, ROWS_MAX, TopList, TopRequest, WINDOW_MAX, uncut};
use crate::wire::{codes, name};

/// Rows if nothing else is said.
const ROWS: usize = 10;

/// Reads what is asked for of the query string's arguments.
///
/// # Errors
/// What is wrong with them.
pub(in crate::control) fn request(argument: impl Fn(&str) -> Option<String>) -> Result<TopRequest, String> {
    let what = argument("what").unwrap_or_default();
    let rows = number(&argument, "n", 1, ROWS_MAX)?.unwrap_or(ROWS);
    let expected = || format!("what is one of {}", LISTS.join(", "));
    let mut request = TopRequest::named(&what, rows).ok_or_else(expected)?;
    if let Some(window) = number(&argument, "window", 1, WINDOW_MAX)? {
        request.window_s = window;
    }
    let filter = &mut request.filter;
    filter.pool = argument("pool");
    filter.server = argument("server");
    if let Some(client) = argument("client") {
        filter.networks.push(client.parse().map_err(|_| "client is an address or a network".to_owned())?);
    }
    if let Some(wanted) = argument("name") {
        let wire = name::from_text(uncut(&wanted)).map_err(|e| format!("name {e}"))?;
        filter.names.push(wire.to_ascii_lowercase());
    }
    if let Some(code) = argument("rcode") {
        let known =
            (0..16).find(|n| codes::rcode_name(*n).eq_ignore_ascii_case(&code) || n.to_string() == code);
        let known = known.ok_or_else(|| "rcode is a response code, as SERVFAIL".to_owned())?;
        filter.rcode = u8::try_from(known).ok();
    }
    if let Some(qtype) = argument("type") {
        let known = (0..=u16::MAX).find(|n| codes::type_name(*n).eq_ignore_ascii_case(&qtype));
        let known = known.or_else(|| qtype.parse().ok());
        filter.qtype = Some(known.ok_or_else(|| "type is a type, as AAAA".to_owned())?);
    }
    if let Some(ms) = number(&argument, "slower", 0, u32::MAX / 1_000)? {
        filter.latency_us_min = Some(ms * 1_000);
    }
    Ok(request)
}

fn number<T: std::str::FromStr + PartialOrd + std::fmt::Display + Copy>(
    argument: impl Fn(&str) -> Option<String>,
    name: &str,
    min: T,
    max: T,
) -> Result<Option<T>, String> {
    let Some(text) = argument(name) else { return Ok(None) };
    let number = text.parse().ok().filter(|n| (min..=max).contains(n));
    number.map(Some).ok_or_else(|| format!("{name} is a whole number from {min} to {max}"))
}

/// A list as JSON.
pub(in crate::control) fn answer(request: &TopRequest, list: &TopList) -> Value {
    let share = |count: u64| rounded(count as f64 / list.total.max(1) as f64);
    let rows = list.rows.iter().map(|row| {
        json!({"label": row.label, "count": row.count, "error": row.error, "share": share(row.count).min(1.0)})
    });
    json!({
        "unit": if request.bytes { "bytes" } else { "queries" },
        "window_s": rounded(list.window_s),
        "total": list.total,
        "counted_share": (list.share * 1e6).round() / 1e6,
        "is_estimate": list.is_estimate,
        "unlisted_max": list.unlisted_max,
        "unknown": list.unknown,
        "rows": rows.collect::<Value>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::top::{By, Only, TopRow};

    fn asked(query: &str) -> Result<TopRequest, String> {
        let pairs: Vec<_> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        request(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn arguments_are_read() {
        let plain = asked("what=names").expect("a list");
        assert_eq!(plain, TopRequest::new(By::Name(0), Only::All, 10));
        let narrowed = asked(
            "what=bandwidth&window=900&n=3&pool=&server=a&client=192.0.2.0/24&name=Example.com&rcode=servfail&\
             type=aaaa&slower=100",
        );
        let narrowed = narrowed.expect("a list");
        assert!(narrowed.bytes && narrowed.window_s == 900 && narrowed.rows == 3);
        let filter = narrowed.filter;
        assert_eq!((filter.pool.as_deref(), filter.server.as_deref()), (Some(""), Some("a")));
        assert_eq!(filter.names, [b"\x07example\x03com\0".to_vec()]);
        assert_eq!((filter.rcode, filter.qtype, filter.latency_us_min), (Some(2), Some(28), Some(100_000)));
        let cut = asked("what=names&name=...www.evil.").expect("as a list shows it");
        assert_eq!(cut.filter.names, [b"\x03www\x04evil\0".to_vec()]);
        for (wrong, expected) in [
            ("what=x", "what is one of clients, "),
            ("n=3", "what is one of clients, "),
            ("what=names&window=901", "window is a whole number from 1 to 900"),
            ("what=names&n=0", "n is a whole number from 1 to 1000"),
            ("what=names&client=x", "client is an address or a network"),
            ("what=names&name=..", "name has an empty label"),
            ("what=names&rcode=99", "rcode is a response code"),
            ("what=names&type=x", "type is a type"),
            ("what=names&slower=-1", "slower is a whole number"),
        ] {
            let error = asked(wrong).expect_err(wrong);
            assert!(error.starts_with(expected), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_list_says_what_it_is_worth() {
        let rows = vec![TopRow { label: "a.".to_owned(), count: 25, error: 1 }];
        let list = TopList {
            rows,
            total: 100,
            window_s: 61.5,
            share: 1.0,
            unlisted_max: Some(7),
            ..TopList::default()
        };
        assert_eq!(
            answer(&TopRequest::new(By::Name(0), Only::All, 1), &list),
            json!({
                "unit": "queries", "window_s": 61.5, "total": 100, "counted_share": 1.0, "is_estimate": false,
                "unlisted_max": 7, "unknown": 0,
                "rows": [{"label": "a.", "count": 25, "error": 1, "share": 0.25}],
            })
        );
    }
}
