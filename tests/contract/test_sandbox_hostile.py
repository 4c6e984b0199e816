"""Commands that try to get out, to get the key, or to take the host down."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runs_domain.errors import SandboxLimitExceeded
from runs_domain.sandbox_port import Sandbox
from tests.support.sandboxes import (
    KEY,
    key,
    new_spec,
    new_token,
    processes_naming,
    stands_below,
    start_worker,
)
from tests.support.waiting import until
from workers.adapters.sandbox_local import Limits, LocalSandboxProvider
from workers.adapters.sandbox_local.limits import MIB
from workers.adapters.sandbox_local.workspace import UID_COUNT, UID_FIRST

SECONDS = 30.0
SMALL = Limits(
    processes_max=48,
    data_bytes_max=64 * MIB,
    file_bytes_max=8 * MIB,
    tmp_bytes_max=4 * MIB,
    cpu_seconds_max=1,
    workspace_bytes_max=4 * MIB,
    workspace_files_max=500,
    quota_poll_seconds=0.05,
)


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[LocalSandboxProvider]:
    local = LocalSandboxProvider(tmp_path / "data", api_base_url="", limits=SMALL)
    yield local
    await local.close()


@pytest.fixture
async def sandbox(provider: LocalSandboxProvider) -> AsyncIterator[Sandbox]:
    opened, _ = await provider.open(new_spec(), key=key)
    yield opened
    await opened.destroy()


# ---------------------------------------------------------------------------- planted links


@pytest.fixture
async def other(provider: LocalSandboxProvider) -> AsyncIterator[Sandbox]:
    """A second run's sandbox on the same host, with something to steal."""
    opened, _ = await provider.open(new_spec("other"), key=key)
    await opened.write("secret", b"the other run's")
    yield opened
    await opened.destroy()


LINKS = {
    "shadow": "/etc/shadow",
    "other-run": "../../other/workspace/secret",
    "through-proc": "/proc/1/root/etc/shadow",
    "through-self": "/proc/self/cwd/x",
    "up": "..",
    "etc": "/etc",
    "dangling": "/etc/runledger-planted",
}


@pytest.fixture
async def planted(sandbox: Sandbox) -> Sandbox:
    for name, target in LINKS.items():
        await sandbox.exec(f"ln -s {target} {name}", timeout_seconds=SECONDS)
    return sandbox


@pytest.mark.parametrize(
    "path",
    [
        *LINKS,
        "etc/shadow",
        "up/../other/workspace/secret",
        "up/../../etc/shadow",
        "../../other/workspace/secret",
        "/workspace/../../other/workspace/secret",
        "/etc/shadow",
        "/proc/self/environ",
    ],
)
@pytest.mark.usefixtures("other")
async def test_reading_never_follows_a_link_out(planted: Sandbox, path: str) -> None:
    with pytest.raises(PermissionError):
        await planted.read(path, max_bytes=100)


@pytest.mark.parametrize(
    "path",
    [
        *LINKS,
        "etc/runledger-planted",
        "up/../other/workspace/secret",
        "up/planted",
        "dangling/planted",
        "../planted",
        "/etc/runledger-planted",
    ],
)
async def test_writing_never_follows_a_link_out(
    planted: Sandbox, other: Sandbox, tmp_path: Path, path: str
) -> None:
    with pytest.raises((PermissionError, FileExistsError)):
        await planted.write(path, b"planted")

    assert await other.read("secret", max_bytes=100) == b"the other run's"
    assert not stands_below(Path("/etc"), "runledger-planted")
    assert not stands_below(tmp_path, "planted")


async def test_listing_never_follows_a_link_out(planted: Sandbox) -> None:
    for path in ("etc", "up", "..", "/"):
        with pytest.raises(PermissionError):
            await planted.list(path)


async def test_a_link_that_stays_inside_is_followed(sandbox: Sandbox) -> None:
    await sandbox.exec("echo inner > f; ln -s f l; mkdir d; ln -s d e", timeout_seconds=SECONDS)

    await sandbox.write("e/new", b"1")

    assert await sandbox.read("l", max_bytes=100) == b"inner\n"
    assert await sandbox.read("d/new", max_bytes=100) == b"1"


async def test_the_same_links_are_dead_inside_and_hard_links_cannot_be_made(
    planted: Sandbox, other: Sandbox
) -> None:
    result = await planted.exec(
        "cat shadow other-run through-proc; ls ..; ln /etc/passwd hard", timeout_seconds=SECONDS
    )

    assert "the other run's" not in result.stdout
    assert "root:" not in result.stdout
    assert "other" not in result.stdout.split()
    assert result.exit_code != 0
    assert await other.read("secret", max_bytes=100) == b"the other run's"


async def test_files_and_commands_belong_to_the_sandboxs_own_user(
    sandbox: Sandbox, other: Sandbox, tmp_path: Path
) -> None:
    """As root each sandbox has an unprivileged uid of its own; an ordinary user has only itself."""
    await sandbox.write("by-tool", b"1")
    await sandbox.exec("touch by-command", timeout_seconds=SECONDS)
    inside = tmp_path / "data" / "sandboxes" / sandbox.state.name / "workspace"
    elsewhere = tmp_path / "data" / "sandboxes" / other.state.name / "workspace"

    owners = {(inside / name).stat().st_uid for name in ("by-tool", "by-command")}

    assert len(owners) == 1
    if os.geteuid() == 0:
        assert min(owners) in range(UID_FIRST, UID_FIRST + UID_COUNT)
        assert elsewhere.stat().st_uid not in owners
    else:
        assert owners == {os.geteuid()}


# ---------------------------------------------------------------------------- what is seen


async def test_invariant_6_no_key_and_no_canary_is_seen_inside(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither environment, processes, arguments nor files hold the key or the worker's secrets."""
    canary = new_token()
    monkeypatch.setenv("RUNLEDGER_SECRET", canary)
    await sandbox.exec("echo warm", timeout_seconds=SECONDS)

    result = await sandbox.exec(
        "env; cat /proc/*/environ /proc/*/cmdline /proc/self/mountinfo; ls -l /proc/*/fd;"
        " cat /etc/* ~/* /run/* /tmp/*; ls -laR / --ignore=proc --ignore=usr",
        timeout_seconds=SECONDS,
    )

    seen = result.stdout + result.stderr
    assert "HOME=/home/agent" in seen
    assert canary not in seen
    assert KEY not in seen


async def test_invariant_6_no_argument_on_the_host_holds_script_or_environment(
    sandbox: Sandbox,
) -> None:
    token, secret = new_token(), new_token()
    process_id = await sandbox.spawn(f"t={token}; touch began; sleep 600", env={"S": secret})
    await until(lambda: _has(sandbox, "began"))

    assert processes_naming(token) == []
    assert processes_naming(secret) == []
    await sandbox.kill(process_id)


async def _has(sandbox: Sandbox, name: str) -> bool:
    return any(entry.path == f"./{name}" for entry in await sandbox.list("."))


async def test_only_the_three_standard_descriptors_come_in(sandbox: Sandbox) -> None:
    result = await sandbox.exec(
        "for f in /proc/self/fd/*; do echo ${f##*/}; done | sort -u", timeout_seconds=SECONDS
    )

    assert set(result.stdout.split()) <= {"0", "1", "2", "3", "self", "255"}
    links = await sandbox.exec("ls -l /proc/$$/fd", timeout_seconds=SECONDS)
    assert "net:" not in links.stdout
    assert "user:" not in links.stdout
    assert "memfd" not in links.stdout


async def test_hosts_files_and_processes_are_not_there(sandbox: Sandbox) -> None:
    result = await sandbox.exec(
        "ls /root /var /srv /opt; ls -A /home; ls /proc | grep -c '^[0-9]'", timeout_seconds=SECONDS
    )

    assert result.stdout.split()[0] == "agent"
    assert int(result.stdout.split()[-1]) < 8


async def test_the_system_is_read_only(sandbox: Sandbox) -> None:
    result = await sandbox.exec(
        "for d in / /dev /etc /usr /usr/bin /bin /lib /proc /proc/sys/kernel /home; do"
        " touch $d/planted 2>/dev/null && echo wrote $d; done;"
        " echo x > /etc/passwd && echo passwd; echo 1 > /proc/sys/kernel/sysrq && echo sysrq; true",
        timeout_seconds=SECONDS,
    )

    assert result.stdout == ""


async def test_no_network_but_the_broker(sandbox: Sandbox) -> None:
    """A listener of the host, cloud metadata, the internet and names: all out of reach."""
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    result = await sandbox.exec(
        f"for a in 127.0.0.1/{port} 127.0.0.1/5432 169.254.169.254/80 1.1.1.1/443 example.org/80;"
        " do (exec 3<>/dev/tcp/$a) 2>/dev/null && echo reached $a; done;"
        " (exec 3<>/dev/tcp/127.0.0.1/80) && echo reached the broker; cat /proc/net/route | wc -l",
        timeout_seconds=SECONDS,
    )
    server.close()
    await server.wait_closed()

    assert result.stdout == "reached the broker\n1\n"


async def test_no_privilege_can_be_gained(sandbox: Sandbox) -> None:
    result = await sandbox.exec(
        "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status;"
        " unshare --user true && echo userns; unshare --mount true && echo mountns;"
        " mount -t tmpfs none /tmp && echo mounted; chroot / true && echo chroot;"
        " nsenter --target 1 --mount true && echo entered; su -c true && echo su; true",
        timeout_seconds=SECONDS,
    )

    assert result.stdout.split() == [
        *("CapEff:", "0000000000000000"),
        *("CapBnd:", "0000000000000000"),
        *("NoNewPrivs:", "1"),
    ]


async def test_limits_cannot_be_raised(sandbox: Sandbox) -> None:
    result = await sandbox.exec(
        "for l in u d f n t; do ulimit -$l unlimited 2>/dev/null && echo raised $l; done; true",
        timeout_seconds=SECONDS,
    )

    assert result.stdout == ""


# ---------------------------------------------------------------------------- bombs


async def test_a_fork_bomb_stays_in_its_sandbox(sandbox: Sandbox, other: Sandbox) -> None:
    bomb = asyncio.create_task(sandbox.exec(":(){ :|:& };:; wait", timeout_seconds=3.0))
    results = [await other.exec("echo alive", timeout_seconds=SECONDS) for _ in range(5)]
    await bomb

    assert [result.stdout for result in results] == ["alive\n"] * 5
    assert (await sandbox.exec("echo alive", timeout_seconds=SECONDS)).stdout == "alive\n"


async def test_endless_output_is_killed_and_its_ends_kept(sandbox: Sandbox) -> None:
    result = await sandbox.exec("yes", timeout_seconds=600)

    assert result.killed_for == "output_limit"
    assert result.exit_code is None
    assert result.truncated
    assert 50_000 <= len(result.stdout) < 50_100


async def test_a_memory_bomb_dies_alone(sandbox: Sandbox) -> None:
    result = await sandbox.exec("head -c 200000000 /dev/zero | tail", timeout_seconds=SECONDS)

    assert result.exit_code != 0
    assert "exhausted" in result.stderr


async def test_a_busy_loop_ends_at_its_processor_time(sandbox: Sandbox) -> None:
    result = await sandbox.exec("while :; do :; done", timeout_seconds=SECONDS)

    assert result.exit_code == 128 + signal.SIGKILL


async def test_a_command_that_ignores_sigterm_ends_at_its_deadline(sandbox: Sandbox) -> None:
    result = await sandbox.exec("trap '' TERM INT HUP; sleep 600", timeout_seconds=0.5)

    assert result.timed_out


async def test_a_daemon_ends_with_its_command(sandbox: Sandbox) -> None:
    token = new_token()

    result = await sandbox.exec(
        f"setsid nohup bash -c 'exec -a {token} sleep 600' & disown; sleep 0.1; echo done",
        timeout_seconds=SECONDS,
    )

    assert (result.exit_code, result.stdout) == (0, "done\n")
    await until(lambda: not processes_naming(token))


async def test_killing_everything_kills_only_itself(sandbox: Sandbox) -> None:
    """The worker may be of the same uid, and goes on."""
    await sandbox.exec(f"kill -9 -1; kill -9 {os.getpid()}", timeout_seconds=SECONDS)

    assert (await sandbox.exec("echo alive", timeout_seconds=SECONDS)).stdout == "alive\n"


async def test_filling_scratch_space_ends_at_its_size(sandbox: Sandbox) -> None:
    result = await sandbox.exec(
        "for d in /tmp /run /dev/shm; do head -c 7M /dev/zero > $d/f; done", timeout_seconds=SECONDS
    )

    assert result.stderr.count("No space left") == 3


async def test_a_workspace_over_its_bytes_is_stopped_and_can_be_cleaned(sandbox: Sandbox) -> None:
    full = await sandbox.exec("head -c 6M /dev/zero > f; sleep 600", timeout_seconds=SECONDS)
    cleaned = await sandbox.exec("rm f; ls", timeout_seconds=SECONDS)
    after = await sandbox.exec("echo alive", timeout_seconds=SECONDS)

    assert full.killed_for == "disk_quota"
    assert (cleaned.exit_code, after.stdout) == (0, "alive\n")


async def test_a_workspace_over_its_files_is_stopped_also_behind_a_closed_folder(
    sandbox: Sandbox,
) -> None:
    result = await sandbox.exec(
        "mkdir d; cd d; touch f{1..600}; chmod 000 .; sleep 600", timeout_seconds=SECONDS
    )

    assert result.killed_for == "disk_quota"


async def test_a_file_over_its_size_is_refused_inside_and_by_the_tool(sandbox: Sandbox) -> None:
    result = await sandbox.exec("head -c 9M /dev/zero > f", timeout_seconds=SECONDS)

    assert result.exit_code != 0
    with pytest.raises(SandboxLimitExceeded):
        await sandbox.write("g", b"x" * (SMALL.file_bytes_max + 1))


@pytest.mark.crash
async def test_a_killed_worker_takes_every_process_along(tmp_path: Path) -> None:
    token = new_token()
    worker = start_worker(tmp_path, token)
    try:
        await until(lambda: len(processes_naming(f"{token}-inside")) == 3, timeout_seconds=30)
    finally:
        worker.kill()
        worker.wait()

    await until(lambda: not processes_naming(token))
