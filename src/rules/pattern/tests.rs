use super::*;

fn matches(text: &str, whole: bool, qname: &[u8]) -> bool {
    let mut cache = PatternCache::default();
    let pattern = Pattern::new(text, whole).expect("an expression");
    let first = pattern.matches(qname, &mut cache);
    assert_eq!(pattern.matches(qname, &mut cache), first, "the same with a warm cache");
    first
}

#[test]
fn many_expressions_are_split_into_parts() {
    // No digit is next to another one: there are no literals.
    let expression = |n: u32| {
        let digits: Vec<_> = n.to_string().chars().map(String::from).collect();
        format!("^a{}b*$", digits.join("x*"))
    };
    let patterns: Vec<_> =
        (0..4_000).map(|n| Pattern::new(&expression(n), false).expect("an expression")).collect();
    let index = PatternIndex::new(&patterns);
    assert_eq!(index.parts.len(), 4_000_usize.div_ceil(PART_MAX));
    let mut cache = PatternCache::default();
    for number in [0, 63, 64, 3_999] {
        let label = format!("a{number}bb");
        let qname = [&[label.len() as u8][..], label.as_bytes(), &[0]].concat();
        let mut found = Vec::new();
        index.each(&qname, &mut cache, |n| found.push(n));
        assert_eq!(found, [number]);
    }
}

#[test]
fn expressions_with_a_literal_of_their_own_are_searched_for_where_it_is_found() {
    let texts: Vec<_> = (0..2_000)
        .map(|n| match n % 4 {
            0 => format!("^x[0-9]+[.]site{n:04}[.]test$"),
            1 => format!("(ads{n:04}|track{n:04})er"),
            2 => format!("[0-9]a{}$", n % 10),
            _ => "shared".to_owned() + "x?".repeat(n % 3).as_str(),
        })
        .collect();
    let patterns: Vec<_> = texts.iter().map(|t| Pattern::new(t, false).expect("an expression")).collect();
    let index = PatternIndex::new(&patterns);
    let literals = index.literals.as_ref().expect("there are literals");
    assert_eq!(literals.expressions.len(), 1_000, "common literals and expressions without are in parts");
    assert_eq!(index.parts.iter().map(|p| p.expressions.len()).sum::<usize>(), 1_000);
    let mut cache = PatternCache::default();
    for name in ["x12.SITE0004.test", "track0001er", "ads0005", "sharedxx.example", "7a6", "x.site0008.test"]
    {
        let labels = name.split('.').flat_map(|l| [&[l.len() as u8][..], l.as_bytes()].concat());
        let qname: Vec<u8> = labels.chain([0]).collect();
        let mut found = Vec::new();
        index.each(&qname, &mut cache, |n| found.push(n));
        found.sort_unstable();
        let expected: Vec<_> =
            (0..patterns.len()).filter(|n| patterns[*n].matches(&qname, &mut cache)).collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn names_that_differ_always_build_little() {
    let letter = |n: u32| char::from(b'a' + (n % 26) as u8);
    let texts = (0..2 * PART_MAX as u32)
        .map(|n| format!("ads.*{}.*{}.*track.*{}[0-9]$", letter(n), letter(n / 3), letter(n * 7 + 1)));
    let patterns: Vec<_> = texts.map(|t| Pattern::new(&t, false).expect("an expression")).collect();
    let index = PatternIndex::new(&patterns);
    assert_eq!(index.parts.len(), 2, "all need the same");
    let (mut cache, mut matched) = (PatternCache::default(), 0);
    index.each(b"\0", &mut cache, |n| panic!("{n} matches nothing"));
    for seed in 0..200_u32 {
        let mut state = seed;
        let mut label = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            format!(
                "ads{}x{}track{}{}",
                letter(state >> 8),
                letter(state >> 16),
                letter(state >> 24),
                state % 10
            )
        };
        let labels: Vec<_> = (0..4).map(|_| label() + &label()).collect();
        let labels = labels.iter().flat_map(|l| [&[l.len() as u8][..], l.as_bytes()].concat());
        let qname: Vec<u8> = labels.chain([0]).collect();
        let before = cache.built();
        let mut found = Vec::new();
        index.each(&qname, &mut cache, |n| found.push(n));
        // A state has a transition for each class of bytes, and the places in all expressions that it stands for.
        assert!(
            cache.built().saturating_sub(before) < 2 * (BUILT_MAX as usize + 1) * 2_048,
            "{}",
            cache.built().saturating_sub(before)
        );
        found.sort_unstable();
        let expected: Vec<_> =
            (0..patterns.len()).filter(|n| patterns[*n].matches(&qname, &mut cache)).collect();
        assert_eq!(found, expected, "{label:?}", label = String::from_utf8_lossy(&qname));
        matched += found.len();
    }
    assert!(matched > 200, "{matched} matches");
}

#[test]
fn expressions_of_too_many_states_are_searched_for_too() {
    let texts = ["a.{0,30}b.{0,30}c$", "[ab].{40}x", "x.{2}y"];
    let patterns: Vec<_> = texts.iter().map(|t| Pattern::new(t, false).expect("an expression")).collect();
    let kinds: Vec<_> = patterns.iter().map(|p| matches!(p.0.states, States::Complete(_))).collect();
    assert_eq!(kinds, [false, false, true]);
    let mut cache = PatternCache::default();
    let long = [&b"\x2aa"[..], &[b'0'; 40], b"x\0"].concat();
    for (qname, expected) in [
        (&b"\x06a00b0c\0"[..], [true, false, false]),
        (&long, [false, true, false]),
        (b"\x04x00y\0", [false, false, true]),
    ] {
        assert_eq!([0, 1, 2].map(|n| patterns[n].matches(qname, &mut cache)), expected);
    }
    cache.clear();
    assert!(cache.is_empty());
}

#[test]
fn text_of_the_name_is_searched() {
    for (text, whole, qname, expected) in [
        ("^$", false, &b"\0"[..], true),
        ("^re[.]Example$", false, b"\x02RE\x07examplE\0", true),
        ("part", false, b"\x01a\x04PaRt\0", true),
        ("^part", false, b"\x01a\x04part\0", false),
        (r"^a\\032b$", false, b"\x03a b\0", true),
        (r"^z\\\.z$", false, b"\x03z.z\0", true),
        (r"^z\.z$", false, b"\x03z.z\0", false),
        (r"^x[\d]x$", false, b"\x03xdx\0", true),
        (r"^x[\d]x$", false, b"\x03x1x\0", false),
        ("[[:digit:]]{3}", false, b"\x05ab123\0", true),
        ("piece", true, b"\x05piece\0", true),
        ("piece", true, b"\x01a\x05piece\0", false),
        (".*piece", true, b"\x01a\x05piece\0", true),
        ("piece", true, b"\x05PIECE\0", false),
        ("a|ab", true, b"\x02ab\0", true),
        (r"[\d]+", true, b"\x0242\0", true),
    ] {
        assert_eq!(matches(text, whole, qname), expected, "{text} {qname:?}");
    }
}

#[test]
fn invalid_and_oversized_expressions_are_refused() {
    for text in ["(", "a)(b", "[a", "a{2,1}", r"(a)\1"] {
        for whole in [false, true] {
            let error = Pattern::new(text, whole).expect_err(text);
            assert!(!error.is_empty() && !error.contains('\n'), "{error}");
        }
    }
    let monster = Pattern::new("((a{100}){100}){100}", false).expect_err("a monster");
    assert!(monster.contains("10 MiB"), "{monster}");
    let long = Pattern::new(&"a".repeat((1 << 20) + 1), true).expect_err("too long");
    assert_eq!(long, "it is longer than 1 MiB");
}

#[test]
fn many_expressions_are_searched_at_once() {
    let texts = ["^www", "com$", "nowhere", "^$", "WWW[.]"];
    let patterns: Vec<Pattern> =
        texts.iter().map(|t| Pattern::new(t, false).expect("an expression")).collect();
    let index = PatternIndex::new(&patterns);
    let mut cache = PatternCache::default();
    for (qname, expected) in
        [(&b"\x03www\x03com\0"[..], vec![0, 1, 4]), (b"\0", vec![3]), (b"\x01x\x03net\0", vec![])]
    {
        let mut found = Vec::new();
        index.each(qname, &mut cache, |number| found.push(number));
        assert_eq!(found, expected);
    }
}

#[test]
fn longest_text_fits() {
    let label = [&b"\x3f"[..], &[0xff; 63]].concat();
    let qname = [&label[..], &label, &label, b"\x3d", &[0; 61], &[0]].concat();
    assert_eq!(qname.len(), name::LEN_MAX);
    assert!(matches(r"^(\\255){63}\.(.*)(\\000){61}$", false, &qname));
}

#[test]
fn tables_say_what_the_regex_engine_says() {
    let parts = ["a", "b", "[ab]", "[^a]", "(a|bb)", ".", "^", "$", r"\b", r"\.", "(?:)", "[a&&b]"];
    let ends = ["", "*", "+", "?", "{2,3}", "*?"];
    let (mut state, mut tables, mut matched) = (1_u32, 0, 0);
    let mut number = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    for _ in 0..500 {
        let text: String = (0..1 + number(6))
            .map(|_| {
                let part = parts[number(parts.len())];
                let end = if part.starts_with(['^', '$', '\\']) { "" } else { ends[number(ends.len())] };
                format!("{part}{end}")
            })
            .collect();
        let whole = number(2) == 0;
        let pattern = Pattern::new(&text, whole).expect("an expression");
        let regex = lazy_states(pattern.expression()).expect("an expression");
        tables += usize::from(matches!(pattern.0.states, States::Complete(_)));
        for _ in 0..50 {
            let name: Vec<u8> = (0..number(8)).map(|_| b"aAb.0"[number(5)]).collect();
            let expected = regex.is_match(&*name);
            assert_eq!(
                pattern.is_in(&name, &mut PatternCache::default()),
                expected,
                "{text} {whole} {name:?}"
            );
            matched += usize::from(expected);
        }
    }
    assert!(tables > 450 && matched > 5_000, "{tables} tables, {matched} matches");
}
