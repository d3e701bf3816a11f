//! The program: reads the command line and hands over. No logic lives here.

use std::io::Write;
use std::process::ExitCode;

use dnslob::base::printable::Printable;
use dnslob::config::log_style::LogStyle;
use dnslob::config::{Flags, Invocation, Slots, flags};
use dnslob::control::log;
use dnslob::control::signals::Signals;
use dnslob::lua::front_end;
use dnslob::tools::bench::Outcome;
use dnslob::tools::{console, documents};
use dnslob::{config, control};

fn main() -> ExitCode {
    match flags::parse(std::env::args_os()) {
        Ok(Invocation::Serve(flags)) if flags.check => check(&flags),
        Ok(Invocation::Serve(flags)) => serve(&flags),
        Ok(Invocation::Demo(options)) => demo(&options),
        Ok(Invocation::Console(options)) => console::run(&options),
        Ok(Invocation::Reflect(options)) => reflect(&options),
        Ok(Invocation::Bench(options)) => measured(dnslob::tools::bench::run(&options)),
        Ok(Invocation::Replay(options)) => measured(dnslob::tools::replay::run(&options)),
        Ok(Invocation::Scope(options)) => measured(dnslob::tools::scope::run(&options)),
        Ok(Invocation::Generate(which)) => {
            let written = std::io::stdout().write_all(&documents::document(which));
            if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(e) => e.exit(),
    }
}

/// `--check-config`: says that the configuration is good, or everything that is wrong.
fn check(flags: &Flags) -> ExitCode {
    log::wait_for_readers();
    log::hold();
    control::configured::start_log(flags);
    let checked = front_end::load_first(flags, log::set_style).and_then(|loaded| {
        control::privileges::known(&compiled(&loaded.draft)?.boot)?;
        Ok(LogStyle::of(&loaded.draft.settings))
    });
    match checked {
        Ok(style) => {
            // Before anything else, as dnsdist's users parse it.
            let file = flags.file.as_deref().map_or_else(|| "command line".into(), |f| f.to_string_lossy());
            log::set_style(&style);
            log::confirm(&Printable(file).to_string());
            log::release();
            ExitCode::SUCCESS
        }
        Err(errors) => {
            log::release();
            refuse(&errors)
        }
    }
}

/// Compiles a configuration. What is wrong with it, and what the machine does not have, is said
/// together.
fn compiled(draft: &config::Draft) -> Result<config::Compiled, Vec<config::ConfigError>> {
    let mut missing = control::preconditions::missing(draft);
    let doubtful = control::preconditions::doubtful(draft);
    if draft.is_strict() {
        missing.extend(doubtful);
    } else {
        doubtful.iter().for_each(|odd| tracing::warn!("{odd}"));
    }
    match config::compile(draft, &Slots::default(), 1) {
        Ok(compiled) if missing.is_empty() => Ok(compiled),
        Ok(_) => Err(missing),
        Err(errors) => Err(errors.into_iter().chain(missing).collect()),
    }
}

fn refuse(errors: &[config::ConfigError]) -> ExitCode {
    if let Some(code) = config::exit_code(errors) {
        return ExitCode::from(code);
    }
    if log::is_structured() {
        errors.iter().for_each(|error| tracing::error!("{error}"));
    } else {
        log::error().push(flags::lines(errors).as_bytes());
    }
    ExitCode::FAILURE
}

fn serve(flags: &Flags) -> ExitCode {
    let signals = match Signals::start() {
        Ok(signals) => signals,
        Err(error) => return failed(&format!("signals: {error}")),
    };
    control::configured::start_log(flags);
    match front_end::load_first(flags, log::set_style) {
        Ok(loaded) => match compiled(&loaded.draft) {
            Ok(compiled) => control::run(flags, loaded, compiled, signals),
            Err(errors) => refuse(&errors),
        },
        Err(errors) => refuse(&errors),
    }
}

fn demo(options: &config::DemoOptions) -> ExitCode {
    match dnslob::tools::demo::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&format!("{error:#}")),
    }
}

fn reflect(options: &config::reflect::ReflectOptions) -> ExitCode {
    match dnslob::tools::reflect::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&format!("{error:#}")),
    }
}

fn measured(outcome: anyhow::Result<Outcome>) -> ExitCode {
    match outcome {
        Ok(Outcome::Measured) => ExitCode::SUCCESS,
        // 1 and 2 mean that nothing was measured.
        Ok(Outcome::Failed) => ExitCode::from(3),
        Err(error) => failed(&format!("{error:#}")),
    }
}

fn failed(error: &str) -> ExitCode {
    if log::is_structured() {
        tracing::error!("{error}");
    } else {
        log::error().push(format!("dnslob: {}\n", Printable(error)).as_bytes());
    }
    ExitCode::FAILURE
}
