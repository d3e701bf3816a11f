use crate::control::fixture::health;
use crate::control::health::*;

const MS: u64 = 1_000_000;

fn at(ms: u64) -> Tick {
    Tick(ms * MS)
}

/// Runs one probe that is due at `ms`, which ends at once.
fn probe(check: &mut Check, ms: u64, ok: bool) -> State {
    assert!(check.next().is_some_and(|t| t <= at(ms)), "no probe due at {ms} ms: {:?}", check.next());
    check.begin(ms, at(ms));
    check.settle(ms, if ok { Ok(()) } else { Err(Failure::Timeout) }, at(ms));
    check.state()
}

#[test]
fn forced_states_need_no_probe() {
    for (mode, state) in
        [(HealthMode::Up, State::Up), (HealthMode::Down, State::Down), (HealthMode::Drain, State::Draining)]
    {
        let check = Check::new(health(mode), at(0), TickDelta(0), false);
        assert_eq!((check.state(), check.next(), check.is_unknown()), (state, None, false), "{mode:?}");
    }
}

#[test]
fn rise_and_fall_counts() {
    // Each letter is the outcome of a probe, each sign below it the state afterwards.
    for (outcomes, states) in [
        ("+", "U"),             // the first alone decides
        ("-", "D"),             //
        ("+--+---", "UUUUUUD"), // a success resets the count of failures
        ("-+-++", "DDDDU"),     // and vice versa
        ("+---++---", "UUUDDUUUD"),
    ] {
        let mut check = Check::new(health(HealthMode::Auto), at(0), TickDelta(0), false);
        let mut seen = String::new();
        for (n, outcome) in outcomes.chars().enumerate() {
            let state = probe(&mut check, n as u64 * 1000, outcome == '+');
            seen.push(if state == State::Up { 'U' } else { 'D' });
        }
        assert_eq!(seen, states, "{outcomes}");
    }
}

#[test]
fn a_probe_that_cannot_be_sent_has_no_result() {
    // As above; `x` is a probe that could not be made.
    for mode in [HealthMode::Auto, HealthMode::Lazy] {
        for (outcomes, states) in [
            ("x", "D"), // still unknown
            ("xx+", "DDU"),
            ("+xxxxxxxxx", "UUUUUUUUUU"),
            ("+-x-x-", "UUUUUD"), // it does not reset the count
            ("+---xxxx++", "UUUDDDDDDU"),
        ] {
            let mut check = Check::new(health(mode), at(0), TickDelta(0), false);
            let (mut seen, mut now) = (String::new(), 0);
            for (n, outcome) in outcomes.chars().enumerate() {
                if check.next().is_none() {
                    // Lazy: live traffic fails.
                    check.live(Live { responses: 0, timeouts: 100, servfails: 0 }, at(now));
                }
                let due = check.next().expect("a probe is due");
                assert!(n == 0 || due <= at(now + 20_000), "{outcomes}: soon enough");
                now = now.max(due.0 / MS);
                let ticket = n as u64 + 1;
                check.begin(ticket, at(now));
                let outcome = match outcome {
                    '+' => Ok(()),
                    '-' => Err(Failure::Timeout),
                    _ => Err(Failure::Local),
                };
                check.settle(ticket, outcome, at(now));
                seen.push(if check.state() == State::Up { 'U' } else { 'D' });
            }
            assert_eq!(seen, states, "{outcomes} {mode:?}");
            let unmade = outcomes.chars().filter(|c| *c == 'x').count() as u64;
            assert_eq!(check.failed()[Failure::Local as usize], unmade);
        }
    }
}

#[test]
fn a_probe_that_cannot_be_made_is_repeated_soon_and_not_awaited() {
    let slow = Health { interval: TickDelta::from_ms(60_000), ..health(HealthMode::Auto) };
    let mut check = Check::new(slow, at(0), TickDelta::from_ms(50_000), false);
    assert!(check.is_awaited());
    check.begin(1, at(0));
    check.settle(1, Err(Failure::Local), at(10));
    assert!(check.is_unknown() && !check.is_awaited(), "a start or reload does not wait");
    assert_eq!(check.next(), Some(at(1_010)));
    check.begin(2, at(1_010));
    check.settle(2, Ok(()), at(1_020));
    assert_eq!((check.state(), check.next()), (State::Up, Some(at(51_010))), "the first outcome decides");
}

#[test]
fn the_second_probe_follows_the_phase_and_later_ones_the_interval() {
    let mut check = Check::new(health(HealthMode::Auto), at(0), TickDelta::from_ms(300), false);
    probe(&mut check, 0, true);
    assert_eq!(check.next(), Some(at(300)));
    probe(&mut check, 300, true);
    assert_eq!(check.next(), Some(at(1300)));
}

#[test]
fn probes_of_a_backend_never_overlap_and_stale_outcomes_are_ignored() {
    let mut check = Check::new(health(HealthMode::Auto), at(0), TickDelta(0), false);
    check.begin(1, at(0));
    assert_eq!(check.next(), None);
    check.settle(9, Ok(()), at(10));
    assert!(check.is_unknown());
    check.settle(1, Ok(()), at(2500));
    assert_eq!((check.state(), check.next()), (State::Up, Some(at(2500))));
}

#[test]
fn failures_are_counted_by_reason() {
    let mut check = Check::new(health(HealthMode::Auto), at(0), TickDelta(0), false);
    for (n, reason) in [Failure::Mismatch, Failure::Invalid, Failure::Invalid].into_iter().enumerate() {
        check.begin(n as u64, at(n as u64 * 1000));
        check.settle(n as u64, Err(reason), at(n as u64 * 1000));
    }
    assert_eq!(check.failed(), &[0, 0, 0, 1, 2, 0]);
}

#[test]
fn a_returning_backend_warms_up_linearly_and_a_new_one_on_request() {
    let mut settings = health(HealthMode::Auto);
    settings.slow_start = TickDelta::from_ms(10_000);
    settings.rise = 1;
    settings.fall = 1;
    let mut check = Check::new(settings.clone(), at(0), TickDelta(0), false);
    probe(&mut check, 0, true);
    assert_eq!(check.warmth_ppm(at(0)), PPM);
    probe(&mut check, 1000, false);
    probe(&mut check, 2000, true);
    let ramp: Vec<u32> = [2000, 7000, 11_999, 12_000].map(|ms| check.warmth_ppm(at(ms))).to_vec();
    assert_eq!(ramp, [50_000, 525_000, 999_905, PPM]);

    let mut added = Check::new(settings, at(0), TickDelta(0), true);
    probe(&mut added, 0, true);
    assert_eq!(added.warmth_ppm(at(0)), WARMTH_FIRST_PPM);
}

#[test]
fn lazy_probes_start_when_live_answers_fail() {
    let mut check = Check::new(health(HealthMode::Lazy), at(0), TickDelta(0), false);
    assert_eq!(probe(&mut check, 0, true), State::Up);
    assert_eq!(check.next(), None);
    for (live, probes) in [
        (Live { responses: 0, timeouts: 9, servfails: 0 }, false), // no sample yet
        (Live { responses: 90, timeouts: 10, servfails: 9 }, false), // 19 %
        (Live { responses: 90, timeouts: 10, servfails: 10 }, true), // 20 %
        (Live { responses: 0, timeouts: 10, servfails: 0 }, true), // the smallest sample
    ] {
        let mut check = Check::new(health(HealthMode::Lazy), at(0), TickDelta(0), false);
        probe(&mut check, 0, true);
        check.live(live, at(100));
        assert_eq!(check.next(), probes.then_some(at(100)), "{live:?}");
    }
}

#[test]
fn lazy_goes_from_suspect_to_failed_with_growing_intervals_and_back() {
    let mut check = Check::new(health(HealthMode::Lazy), at(0), TickDelta(0), false);
    probe(&mut check, 0, true);
    check.live(Live { responses: 80, timeouts: 20, servfails: 0 }, at(100));
    assert_eq!((check.state(), check.next()), (State::Up, Some(at(100))), "suspect is still up");
    assert_eq!(probe(&mut check, 100, false), State::Up);
    assert_eq!(check.next(), Some(at(1100)));
    assert_eq!(probe(&mut check, 1100, false), State::Up);
    assert_eq!(probe(&mut check, 2100, false), State::Down);
    let mut ms = 2100;
    for span in [4000, 8000, 10_000, 10_000] {
        ms += span;
        assert_eq!(check.next(), Some(at(ms)));
        probe(&mut check, ms, false);
    }
    ms += 10_000;
    assert_eq!(probe(&mut check, ms, true), State::Down);
    assert_eq!(check.next(), Some(at(ms + 4000)));
    assert_eq!(probe(&mut check, ms + 4000, true), State::Up);
    assert_eq!(check.next(), None, "healthy again: no probe is due");
}

#[test]
fn a_lazy_sample_drops_old_results() {
    let lazy = health(HealthMode::Lazy).lazy;
    let mut sample = Sample::default();
    sample.add(Live { responses: 0, timeouts: 9, servfails: 0 }, &lazy);
    for _ in 0..11 {
        sample.add(Live { responses: 10, ..Live::default() }, &lazy);
    }
    assert_eq!((sample.bad, sample.all), (0, 100));
    let mut deaf = lazy;
    deaf.servfail_counts = false;
    let mut sample = Sample::default();
    sample.add(Live { responses: 100, timeouts: 0, servfails: 100 }, &deaf);
    assert!(!sample.is_bad(&deaf));
}

#[test]
fn an_ejection_ends_with_a_warm_up() {
    let mut settings = health(HealthMode::Auto);
    settings.slow_start = TickDelta::from_ms(1000);
    let mut check = Check::new(settings, at(0), TickDelta(0), false);
    probe(&mut check, 0, true);
    check.eject(at(5000));
    check.pass(at(4999));
    assert_eq!(check.state(), State::Ejected);
    check.pass(at(5000));
    assert_eq!((check.state(), check.warmth_ppm(at(5000))), (State::Up, WARMTH_FIRST_PPM));
    check.pass(at(6000));
    assert_eq!(check.warmth_ppm(at(6000)), PPM);
}

#[test]
fn a_forced_up_backend_is_neither_ejected_nor_warmed_up() {
    let mut settings = health(HealthMode::Up);
    settings.slow_start = TickDelta::from_ms(1000);
    let mut check = Check::new(settings, at(0), TickDelta(0), false);
    check.eject(at(5000));
    assert_eq!(check.state(), State::Up);
    check.pass(at(5000));
    assert_eq!((check.state(), check.warmth_ppm(at(5000))), (State::Up, PPM));
}

#[test]
fn new_settings_keep_the_state() {
    let mut check = Check::new(health(HealthMode::Auto), at(0), TickDelta(0), false);
    probe(&mut check, 0, false);
    let mut faster = health(HealthMode::Auto);
    faster.interval = TickDelta::from_ms(100);
    check.revise(faster, at(50));
    assert_eq!((check.state(), check.is_unknown(), check.next()), (State::Down, false, Some(at(50))));
    check.revise(health(HealthMode::Up), at(60));
    assert_eq!((check.state(), check.next()), (State::Up, None));
    check.revise(health(HealthMode::Auto), at(70));
    assert_eq!((check.state(), check.is_unknown()), (State::Up, false), "up until probes fail");
    check.revise(health(HealthMode::Drain), at(80));
    assert_eq!(check.state(), State::Draining);
    check.revise(health(HealthMode::Auto), at(90));
    assert!(check.is_unknown());
}

#[test]
fn a_set_begins_due_probes_with_seeded_phases() {
    let make = |seed| {
        let mut checks = Checks::new(ShardRng::from_seed(seed));
        for slot in 0..20 {
            checks.add(BackendSlot(slot), &health(HealthMode::Auto), at(0), false);
        }
        let mut tickets = 0;
        assert_eq!(checks.begin(at(0), &mut tickets).len(), 20);
        assert!(checks.begin(at(0), &mut tickets).is_empty());
        for slot in 0..20 {
            let ticket = u64::from(slot) + 1;
            checks.at_mut(BackendSlot(slot)).expect("a check").settle(ticket, Ok(()), at(0));
        }
        assert!(!checks.any_unknown());
        checks.iter().filter_map(|(_, c)| c.next()).collect::<Vec<_>>()
    };
    let phases = make(7);
    assert_eq!(phases, make(7));
    assert_ne!(phases, make(8));
    let early = phases.iter().filter(|t| **t < at(500)).count();
    assert!((3..=17).contains(&early), "spread over the interval: {early} of 20 in its first half");
}
