//! The container runtime against the kernel: every known gap of libcontainer,
//! closed or refused by name, and the security of what is built around it.
//!
//! The runtime forks workers that go on running Rust code, so it needs a
//! process with one thread: each case runs in a process of its own, this
//! program again. It needs root.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test runner reports on its streams"
)]

mod behaviour;
mod bench;
mod fixture;
mod limits;
mod places;
mod security;
mod sharing;

use std::io::Read;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A named case.
type Case = (&'static str, fn());

/// Lists functions of a module as cases.
macro_rules! cases {
    ($($module:ident :: { $($name:ident),* $(,)? }),* $(,)?) => {
        &[$($((stringify!($name), $module::$name as fn())),*),*]
    };
}

const CASES: &[Case] = cases![
    security::{
        gap_01_exec_gets_seccomp, gap_02_cgroup_mount_is_read_only, gap_03_every_hierarchy_is_joined,
        gap_04_own_binary_is_read_only, gap_05_missing_capabilities_means_none, gap_06_denied_device_stays_denied,
        gap_07_selinux_label_is_refused, gap_19_v2_device_rules, masked_argument_of_seccomp_is_a_mask,
        setuid_binaries_work, ambient_capabilities_reach_the_program, no_tracing_before_execve,
        no_descriptor_leaks, linked_dev_is_refused, masked_path_may_be_a_link, user_namespace_with_exec,
        joined_namespaces, no_id_means_leave_as_it_is, libcontainer_gets_at_no_cgroup,
    },
    behaviour::{
        gap_08_no_new_privileges_false_with_seccomp, gap_09_missing_and_unexecutable_programs,
        gap_10_no_shell_fallback_and_default_path, gap_11_cwd_is_made_and_mount_errors_name_the_mount,
        gap_12_bind_propagation, gap_13_copy_up_and_idmapped_mounts, gap_14_loopback_is_up_and_home_is_set,
        gap_15_exec_gets_the_containers_rlimits, gap_16_kill_keeps_running_and_state_is_replaced_whole,
        init_waits_for_its_start, a_filter_may_forbid_to_read,
        users_by_name, hooks_run, terminal, read_only_root_and_sysctl,
        mounts_keep_their_order, masks_hold_for_every_user, umask_is_the_usual_one,
        execs_at_once, tmpfs_needs_no_source, refusals_change_nothing,
        cleanup_after_a_killed_shim,
    },
    places::{
        links_that_lead_nowhere_get_their_files, a_loop_of_links_is_refused, working_directories_are_cleaned,
        working_directories_on_new_filesystems_are_made, owners_of_the_root_are_shifted, images_are_roots,
    },
    sharing::{
        further_groups_by_name, device_nodes_outside_of_dev, processes_and_memory_of_another_container,
        cgroups_of_the_host, devices_of_the_host, terminals_among_devices_of_the_host,
        memory_takes_on_the_mode_of_its_place,
    },
    limits::{
        gap_17_cpu_usage_in_nanoseconds, gap_18_real_time_caller, limits_and_update, pids_limit_of_zero_and_one,
        pause_kill_and_list, oom_kill_is_reported, cgroups_path_forms,
    },
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if std::env::var_os("GANTRY_TEST_PROBE").is_some() {
        // Executed inside a container, by way of /proc/self/exe.
        println!(
            "sealed {}, changing it: {:?}",
            gantry_shim::runtime::seal::is_sealed(),
            security::touch_own_binary()
        );
        return ExitCode::SUCCESS;
    }
    if let Ok(name) = std::env::var("GANTRY_TEST_CASE") {
        return run_here(&name);
    }
    if args.first().is_some_and(|a| a == "bench") {
        bench::run(&args[1..]);
        return ExitCode::SUCCESS;
    }
    let exact = args.iter().any(|a| a == "--exact");
    let filters: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| {
        filters.is_empty()
            || filters
                .iter()
                .any(|f| if exact { name == f.as_str() } else { name.contains(f.as_str()) })
    };
    let cases: Vec<&Case> = CASES.iter().filter(|c| wanted(c.0)).collect();
    if args.iter().any(|a| a == "--list") {
        cases.iter().for_each(|c| println!("{}: test", c.0));
        return ExitCode::SUCCESS;
    }
    fixture::image();
    run_all(&cases)
}

fn run_here(name: &str) -> ExitCode {
    match CASES.iter().find(|c| c.0 == name) {
        Some(case) => {
            case.1();
            ExitCode::SUCCESS
        }
        None => ExitCode::FAILURE,
    }
}

fn run_all(cases: &[&Case]) -> ExitCode {
    println!("\nrunning {} tests", cases.len());
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().min(8));
    std::thread::scope(|s| {
        for _ in 0..workers {
            s.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (ok, text) = run_child(case.0);
                    println!("test {} ... {}", case.0, if ok { "ok" } else { "FAILED" });
                    if !ok && let Ok(mut failed) = failed.lock() {
                        failed.push((case.0, text));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_default();
    fixture::remove_parents();
    for (name, text) in &failed {
        println!("\n---- {name} ----\n{text}");
    }
    println!("\ntest result: {} passed; {} failed\n", cases.len() - failed.len(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

fn run_child(name: &str) -> (bool, String) {
    let program = std::env::current_exe().expect("a running program has a path");
    let child = Command::new(program)
        .env("GANTRY_TEST_CASE", name)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.expect("this program can be started again");
    let mut text = String::new();
    // Both streams are short; stderr is read when stdout has ended.
    if let Some(mut out) = child.stdout.take() {
        out.read_to_string(&mut text).ok();
    }
    if let Some(mut err) = child.stderr.take() {
        err.read_to_string(&mut text).ok();
    }
    (child.wait().is_ok_and(|s| s.success()), text)
}
