/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kill -9 and power cut at every single write, flush, rename and removal of an epoch being applied, of a rollback and of a merge, and again while
 * that is being recovered from: afterwards the machine is in the state before or the one after, whole, and every state
 * can be read and rolled back to. Enumerated, not sampled. POWER=n (default 2) different power cuts at each place.
 *
 * LINK: userspace/master-target/apply.c userspace/master-target/tags.c userspace/master-target/writer.c userspace/master-target/verify.c userspace/master-target/pool.c userspace/master-target/state.c userspace/master-target/fault.c userspace/master-target/undo.c userspace/master-target/undo_log.c userspace/master-target/restore.c userspace/master-target/job.c userspace/master-target/machine.c userspace/master-target/machine_log.c userspace/master-target/merge.c userspace/master-target/merge_read.c userspace/master-target/merge_write.c userspace/master-target/target.c userspace/master-target/target_identity.c userspace/master-target/target_use.c userspace/master-target/config.c
 */
#include "undo_world.h"

enum action { APPLY, ROLLBACK, MERGE };

static const char *const action_names[] = { "an epoch being applied", "a rollback", "a merge" };

static const char *const parts[] = { "", ".targets/vm", ".retention/machine-1", "/machine-1" };

static void copy_file(int from_dir, int to_dir, const char *name)
{
	static char data[512 * 1024];
	int from = openat(from_dir, name, O_RDONLY | O_CLOEXEC), to = openat(to_dir, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ssize_t bytes = read(from, data, sizeof(data));

	assert_true(from >= 0 && to >= 0 && bytes >= 0 && bytes < (ssize_t)sizeof(data));
	assert_int_equal(write(to, data, (size_t)bytes), bytes);
	close(from);
	close(to);
}

/* Make the files of @to those of @from, in place: the identity of a target is its inode. */
static void copy_dir(const char *from, const char *to)
{
	int from_dir, to_dir;
	const struct dirent *entry;
	struct stat st;
	DIR *dir;

	assert_int_equal(util_mkdirs(to), 0);
	from_dir = open(from, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	to_dir = open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = opendir(to);
	while ((entry = readdir(dir)))
		if (!fstatat(to_dir, entry->d_name, &st, 0) && S_ISREG(st.st_mode) && faccessat(from_dir, entry->d_name, F_OK, 0))
			assert_int_equal(unlinkat(to_dir, entry->d_name, 0), 0);
	closedir(dir);
	dir = opendir(from);
	while ((entry = readdir(dir)))
		if (!fstatat(from_dir, entry->d_name, &st, 0) && S_ISREG(st.st_mode))
			copy_file(from_dir, to_dir, entry->d_name);
	closedir(dir);
	close(from_dir);
	close(to_dir);
}

/* What is on the disk before: kept aside, put back for each try. */
static void keep(bool back)
{
	for (size_t i = 0; i < ARRAY_LENGTH(parts); i++) {
		char there[200], kept[200];

		snprintf(there, sizeof(there), "%s%s", world.dir, parts[i]);
		snprintf(kept, sizeof(kept), "%s.kept/%zu", world.dir, i);
		copy_dir(back ? kept : there, back ? there : kept);
	}
}

static void act(enum action action)
{
	switch (action) {
	case APPLY:
		world_epoch();
		break;
	case ROLLBACK:
		world_rollback(1);
		break;
	case MERGE:
		if (world_recover())
			world_merge(0, 2);
		break;
	}
}

/* In a child: die at @at. Returns whether it died. */
static bool run(enum action action, bool recover_only, unsigned long at, bool power, unsigned seed)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		crash.power = power;
		crash.seed = seed;
		crash.steps = 0;
		crash.at = at;
		world_load();
		if (recover_only)
			world_recover();
		else
			act(action);
		_exit(0);
	}
	assert_true(waitpid(pid, &status, 0) == pid);
	if (!WIFEXITED(status) || (WEXITSTATUS(status) && WEXITSTATUS(status) != CRASH_DIED))
		fail_msg("%s, stopped at %lu: the child ended with %#x", action_names[action], at, status);
	return WEXITSTATUS(status) == CRASH_DIED;
}

/* The machine is in the state before or in the one after, every state is there; then roll back to each of them. */
static void judge(enum action action, const struct content *after, uint64_t old, uint64_t old_epoch)
{
	size_t count = world.count;

	world_load();
	if (!world_recover())
		fail_msg("cannot recover: %s", world.machine->last.message);
	assert_false(world.machine->state.between);
	world.epoch = world.machine->state.last_applied;
	if (action == MERGE && world.machine->log.chain.count != world.count - 1) {
		/* The one in the middle is gone; the model gets it back below. */
		struct known middle = world.known[1];

		middle.view = NULL;
		content_new(&middle.content, &world.known[1].content);
		known_remove(1);
		check_all(1);
		close_views();
		memmove(&world.known[2], &world.known[1], (world.count - 1) * sizeof(middle));
		world.known[1] = middle;
		world.count++;
		world_unload();
		return;
	}
	if (world.machine->state.number != old)
		known_add(world.machine->state.number, action == APPLY ? old_epoch + 1 : world.known[1].epoch, after);
	check_all(1);
	close_views();
	for (size_t i = 0; i < count; i++) {
		if (world.known[i].id == world.machine->state.number)
			continue;
		if (!world_rollback(i))
			fail_msg("cannot roll back to %llu: %s", (unsigned long long)world.known[i].id, world.machine->job.why.message);
		check_targets();
	}
	check_all(1);
	close_views();
	world_unload();
	while (world.count > count)
		known_remove(world.count - 1);
	world.epoch = old_epoch;
}

static void enumerate(enum action action)
{
	unsigned cuts = getenv("POWER") ? (unsigned)strtoul(getenv("POWER"), NULL, 10) : 2;
	unsigned long steps = 0, tried = 0;
	uint64_t old, old_epoch;
	struct content after;
	char command[160];

	world_begin("undo-crash", 7);
	for (int i = 0; i < 3; i++) {
		world_write((int)luck(2), luck(8) * GRANULE, 3 * GRANULE, 40 + i);
		world_write(0, 64 * 1024 + luck(8) * GRANULE, 1024, 80 + i);
		assert_true(world_epoch());
	}
	world_write(0, 8192, 20480, 200);
	for (uint32_t i = 0; i < 8; i++)
		world_write((int)(i % 2), 32768 + i * 2 * GRANULE % 32768, 1024, 210 + (int)i);
	world_write(1, world_size[1] - 1024, 1024, 201);
	old = present()->id;
	old_epoch = world.epoch;
	content_new(&after, action == APPLY ? &world.source : action == ROLLBACK ? &world.known[1].content : &present()->content);
	close_views();
	world_unload();
	keep(false);
	for (bool died = true; died; steps++)
		for (unsigned cut = 0; cut <= cuts; cut++) {
			bool one = run(action, false, steps + 1, cut != 0, (unsigned)(steps * 31 + cut));

			died = cut ? died : one; /* until one gets to the end */
			/* And once more, while it recovers. */
			for (unsigned long again = 1 + luck(12); luck(3) && again > 3; again -= 3)
				run(action, true, again, cut != 0, (unsigned)(steps * 37 + cut));
			judge(action, &after, old, old_epoch);
			keep(true);
			tried++;
		}
	assert_true(steps > 8);
	print_message("%s: %lu operations, %lu kills and power cuts\n", action_names[action], steps, tried);
	content_free(&after);
	snprintf(command, sizeof(command), "rm -rf %s.kept", world.dir);
	assert_int_equal(system(command), 0);
	world_load();
	world_end();
}

static void test_apply(void **user) { (void)user; enumerate(APPLY); }
static void test_rollback(void **user) { (void)user; enumerate(ROLLBACK); }
static void test_merge(void **user) { (void)user; enumerate(MERGE); }

/* The state file cannot be replaced at the very end, when everything else is done: what was done is undone, without a restart. */
static void spoil_state_dir(char keep[sizeof(world.machine->state.dir)])
{
	memcpy(keep, world.machine->state.dir, sizeof(world.machine->state.dir));
	snprintf(world.machine->state.dir, sizeof(world.machine->state.dir), "/dev/null/nowhere");
}

static void begin_two_points(void)
{
	world_begin("undo-state", 11);
	world_write(0, 8192, 20480, 60);
	assert_true(world_epoch());
	world_write(0, 4096, 20480, 61);
	world_write(1, 512, 4096, 62);
}

/* Two points, and nobody is connected. */
static void make_two_points(void)
{
	begin_two_points();
	assert_true(world_epoch());
	world_disconnect();
}

/* Its layer is open. */
static void begin_epoch(void)
{
	world_connect();
	world.acks = world.faults = 0;
	send_begin(0, 100);
	while (!undo_is_open(&world.machine->undo) && !world.faults)
		turn_event();
}

static void test_epoch_that_cannot_be_recorded(void **user)
{
	char dir[sizeof(world.machine->state.dir)];

	(void)user;
	begin_two_points();
	begin_epoch();
	spoil_state_dir(dir);
	send_end(true);
	assert_int_equal(world.acks, 0);
	assert_non_null(strstr(world.fault.message, "cannot save its state"));
	world_disconnect();
	memcpy(world.machine->state.dir, dir, sizeof(dir));
	if (!world_recover())
		fail_msg("cannot recover: %s", world.machine->last.message);
	assert_false(world.machine->state.between);
	check_all(1);
	assert_true(world_epoch());
	check_all(1);
	world_end();
}

static void test_rollback_that_cannot_be_recorded(void **user)
{
	struct machine *m;
	char dir[sizeof(world.machine->state.dir)];
	struct fault fault = { 0 };

	(void)user;
	make_two_points();
	m = world.machine;
	assert_int_equal(machine_rollback(m, world.known[0].id, &fault), 0);
	assert_true(m->state.between);
	spoil_state_dir(dir);
	while (!m->job.retry_ms)
		turn_event();
	assert_non_null(strstr(m->last.message, "cannot save its state"));
	memcpy(m->state.dir, dir, sizeof(dir));
	if (!world_recover()) /* undone, and begun anew */
		fail_msg("cannot recover: %s", m->last.message);
	known_add(m->state.number, world.known[0].epoch, &world.known[0].content);
	check_all(1);
	world_end();
}

/* Points that are given up, which cannot be recorded: all are still there. */
static void test_points_that_stay(void **user)
{
	char dir[sizeof(world.machine->state.dir)];
	struct fault fault = { 0 };

	(void)user;
	make_two_points();
	close_views();
	spoil_state_dir(dir);
	assert_int_equal(machine_drop_points(world.machine, &fault), -1);
	assert_non_null(strstr(fault.message, "cannot save its state"));
	memcpy(world.machine->state.dir, dir, sizeof(dir));
	check_all(1);
	world_write(0, 8192, 20480, 64);
	assert_true(world_epoch());
	check_all(1);
	world_disconnect();
	close_views();
	assert_int_equal(machine_drop_points(world.machine, &fault), 0);
	assert_false(state_log_known(&world.machine->state));
	assert_int_equal(access(world.machine->log.path, F_OK), -1);
	world_end();
}

static void until_settled(void)
{
	const struct state *state = &world.machine->state;

	world_settle();
	assert_true(!state->undo.rollback_to && !state->undo.open && !state->between);
}

/* After each number of turns of the loop: stopped, and the disks as they were, or at its end. */
static void test_rollback_that_is_stopped(void **user)
{
	struct machine *m;
	struct fault fault = { 0 };
	unsigned stopped = 0;

	(void)user;
	make_two_points();
	m = world.machine;
	assert_int_equal(machine_rollback_stop(m, &fault), -1);
	assert_string_equal(fault.code, "no-rollback");
	for (unsigned turns = 0;; turns++) {
		assert_int_equal(machine_rollback(m, world.known[0].id, &fault), 0);
		for (unsigned i = 0; i < turns && m->state.undo.rollback_to; i++)
			turn_event();
		if (!m->state.undo.rollback_to || machine_rollback_stop(m, &fault))
			break;
		until_settled();
		assert_string_equal(m->job.last, "stopped");
		assert_false(m->failing);
		check_all(1);
		stopped++;
	}
	until_settled();
	assert_string_equal(m->job.last, "done");
	known_add(m->state.number, world.known[0].epoch, &world.known[0].content);
	check_all(1);
	assert_true(stopped > 1);
	printf("stopped at %u moments\n", stopped);
	world_end();
}

/* It waits until an epoch that was being written is undone. */
static void test_rollback_that_is_stopped_before_it_begins(void **user)
{
	struct machine *m;
	struct fault fault = { 0 };

	(void)user;
	begin_two_points();
	assert_true(world_epoch());
	world_write(0, 8192, 20480, 63);
	begin_epoch();
	world_disconnect();
	m = world.machine;
	assert_int_equal(machine_rollback(m, world.known[0].id, &fault), 0);
	assert_int_equal(m->job.kind, JOB_UNDO);
	assert_int_equal(machine_rollback_stop(m, &fault), 0);
	until_settled();
	assert_string_equal(m->job.last, "stopped");
	check_all(1);
	assert_true(world_epoch());
	check_all(1);
	world_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_apply), cmocka_unit_test(test_rollback),
					    cmocka_unit_test(test_merge),
					    cmocka_unit_test(test_epoch_that_cannot_be_recorded),
					    cmocka_unit_test(test_rollback_that_cannot_be_recorded),
					    cmocka_unit_test(test_points_that_stay),
					    cmocka_unit_test(test_rollback_that_is_stopped),
					    cmocka_unit_test(test_rollback_that_is_stopped_before_it_begins) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
