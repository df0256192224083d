/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The undo log as a whole against a model that keeps every version: random epochs, dropped epochs, restarts, kills, power cuts,
 * rollbacks, merges, points given up, short writes, I/O errors, full volumes, bit flips. After every step every state that the
 * model has is read through views (some opened long ago, some anew) and must be exact. STEPS=n (default 2500), SEED=n (default 1), VERBOSE=1.
 *
 * LINK: userspace/master-target/apply.c userspace/master-target/tags.c userspace/master-target/writer.c userspace/master-target/verify.c userspace/master-target/pool.c userspace/master-target/state.c userspace/master-target/fault.c userspace/master-target/undo.c userspace/master-target/undo_log.c userspace/master-target/restore.c userspace/master-target/job.c userspace/master-target/machine.c userspace/master-target/machine_log.c userspace/master-target/merge.c userspace/master-target/merge_read.c userspace/master-target/merge_write.c userspace/master-target/target.c userspace/master-target/target_identity.c userspace/master-target/target_use.c userspace/master-target/config.c
 */
#include "undo_world.h"
#include "../random.h"

static struct {
	unsigned long epochs, drops, restarts, kills, cuts, survived, rollbacks, stopped, merges, given_up, errors, full, flips, refused;
} done;

/* ---- steps ------------------------------------------------------------------ */

static void step_epoch(void)
{
	world_forward();
	world_mutate();
	if (!world_epoch())
		fail_msg("epoch refused: %s", world.fault.message);
	done.epochs++;
}

/* An epoch that is not completed: the sender begins anew, or is gone. */
static void step_drop(void)
{
	world_forward();
	world_mutate();
	world_connect();
	send_begin(0, 10 + luck(90));
	for (unsigned n = luck(4); n; n--)
		if (sd_event_run(world.server.event, 0) < 0)
			fail();
	if (luck(2))
		world_disconnect();
	done.drops++;
}

static void step_restart(void)
{
	world_unload();
	world_load();
	if (!world_recover())
		fail_msg("cannot recover: %s", world.machine->last.message);
	assert_false(world.machine->state.between);
	done.restarts++;
}

/* Free a place in the model when it is nearly full, as the policy would: merge, or give up the oldest. */
static void make_room(void)
{
	while (world.count > WORLD_STATES / 4) {
		if (luck(3)) {
			size_t first = luck((unsigned)world.count - 3), last = first + 2 + luck((unsigned)(world.count - first - 2));

			/* The newest epoch stays: a rollback has to be taken back. */
			if (last == world.count - 1 && first + 1 < last)
				last--;
			for (size_t i = first + 1; i < last; i++)
				if (world.known[i].epoch == world.epoch)
					last = i;
			if (last < first + 2)
				continue;
			assert_int_equal(world_merge(first, last), 0);
			for (size_t i = first + 1; i < last; i++)
				known_remove(first + 1);
			done.merges++;
		} else if (world.known[0].epoch != world.epoch) {
			known_remove(0);
			assert_int_equal(undo_log_drop(&world.machine->log), 0);
			done.given_up++;
		}
	}
}

/* Somewhere in it, unless it is over before that. */
static void stop_rollback(size_t at)
{
	struct machine *m = world.machine;
	struct fault fault = { 0 };

	if (machine_log_open(m, &fault) || machine_rollback(m, world.known[at].id, &fault))
		fail_msg("rollback refused: %s", fault.message);
	for (unsigned turns = luck(20); turns-- && m->state.undo.rollback_to;)
		turn_event();
	if (m->state.undo.rollback_to && !machine_rollback_stop(m, &fault))
		done.stopped++;
	world_settle();
	assert_true(!m->state.undo.rollback_to && !m->state.between);
	if (!strcmp(m->job.last, "done"))
		known_add(m->state.number, world.known[at].epoch, &world.known[at].content);
	check_all(0);
}

static void step_rollback(void)
{
	size_t at = luck((unsigned)world.count);

	world_disconnect();
	if (world.known[at].id == world.machine->state.number)
		return;
	if (!luck(3)) {
		stop_rollback(at);
		return;
	}
	if (!world_rollback(at))
		fail_msg("rollback refused: %s", world.machine->job.why.message);
	done.rollbacks++;
	check_all(0);
	if (luck(2))
		world_forward();
}

/* Kill or power cut somewhere in an epoch, a rollback or a merge. */
static void step_crash(void)
{
	unsigned kind = luck(3);
	size_t at = world.count > 1 ? luck((unsigned)world.count - 1) : 0, middle = 1;
	bool power = luck(2);
	struct content after;
	uint64_t old = present()->id, old_epoch = world.epoch;
	int status;
	pid_t pid;

	if (kind != 1)
		world_forward();
	if (kind == 1 && (world.count < 2 || world.known[at].id == present()->id))
		kind = 0;
	if (kind == 2 && (world.count < 4 || world.known[1].epoch == world.epoch))
		kind = 0;
	if (kind == 0) {
		world_forward();
		world_mutate();
	}
	old = present()->id;
	content_new(&after, kind == 0 ? &world.source : kind == 1 ? &world.known[at].content : &present()->content);
	world_unload();
	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		world_load();
		crash.power = power;
		crash.seed = world.seed;
		crash.steps = 0;
		crash.at = 1 + luck(kind == 2 ? 16 : 40);
		if (kind == 0)
			world_epoch();
		else if (kind == 1)
			world_rollback(at);
		else if (world_recover())
			world_merge(0, 2);
		_exit(0);
	}
	assert_true(waitpid(pid, &status, 0) == pid);
	if (!WIFEXITED(status) || (WEXITSTATUS(status) && WEXITSTATUS(status) != CRASH_DIED))
		fail_msg("the child ended with %#x", status);
	if (WEXITSTATUS(status) == CRASH_DIED)
		power ? done.cuts++ : done.kills++;
	else
		done.survived++;
	luck(2);
	world_load();
	if (!world_recover()) /* also finishes a rollback that was begun */
		fail_msg("cannot recover: %s", world.machine->last.message);
	world.epoch = world.machine->state.last_applied;
	if (kind == 0 && world.epoch != old_epoch) {
		assert_int_equal(world.epoch, old_epoch + 1);
		memset(world.dirty, 0, sizeof(world.dirty));
		known_add(world.machine->state.number, world.epoch, &after);
	} else if (kind == 1 && world.machine->state.number != old) {
		known_add(world.machine->state.number, world.known[at].epoch, &after);
	} else if (kind == 2 && world.machine->log.chain.count != world.count - 1) {
		known_remove(middle);
	}
	content_free(&after);
}

/* One operation fails; what was begun fails with a message, or gets over it; nothing is lost. */
static void step_error(void)
{
	bool ok;

	world_forward();
	world_mutate();
	world_connect();
	io_faults.fail_at = io_faults.steps + 1 + luck(30);
	io_faults.torn = luck(2);
	io_faults.error = luck(3) ? -EIO : -ENOSPC;
	ok = world_epoch();
	io_faults.fail_at = 0;
	io_faults.error = 0;
	if (!ok)
		done.errors++;
	if (!world_recover())
		fail_msg("cannot recover: %s", world.machine->last.message);
}

static void step_full(void)
{
	size_t before = world.count;
	bool ok;

	world_forward();
	world_mutate();
	world_disconnect();
	if (!world_recover())
		fail();
	close_views();
	world.full_answer = (enum undo_full)luck(3);
	world.no_space = 1 + luck(3);
	ok = world_epoch();
	world.no_space = 0;
	world.full_answer = UNDO_FULL_FAIL;
	done.full++;
	if (!ok && !strstr(world.fault.message, "full"))
		fail_msg("%s", world.fault.message);
	if (!world_recover())
		fail_msg("cannot recover: %s", world.machine->last.message);
	(void)before;
}

/* A bit of a layer changes: whatever is read is right, or an error. */
static void step_flip(void)
{
	const struct undo_chain *chain = &world.machine->log.chain;
	const struct undo_entry *entry;
	char name[UNDO_NAME_BYTES], path[500];
	uint8_t byte, other;
	off_t at;
	int fd;

	world_disconnect();
	if (!world_recover() || !chain->count)
		return;
	entry = &chain->entries[luck((unsigned)chain->count)];
	undo_layer_name(name, entry->base, entry->last);
	snprintf(path, sizeof(path), "%s/%s", world.log, name);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	at = luck(2) ? (off_t)luck((unsigned)entry->bytes) : (off_t)(luck(2) ? luck(64) : entry->bytes - 4096 + luck(120));
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	other = byte ^ (uint8_t)(1u << luck(8));
	assert_int_equal(pwrite(fd, &other, 1, at), 1);
	for (size_t i = 0; i < world.count; i++)
		if (read_state(i, true))
			done.refused++;
	if (!luck(4) && world.count > 2) {
		size_t to = luck((unsigned)world.count - 1);

		close_views();
		if (!world_rollback(to) && !world_recover())
			fail_msg("cannot recover: %s", world.machine->last.message);
		check_targets();
	}
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
	close_views();
	done.flips++;
}

static const struct {
	unsigned share; /* of 1000 */
	const char *name;
	void (*run)(void);
} kinds[] = {
	{ 600, "epoch", step_epoch },	{ 120, "dropped epoch", step_drop }, { 40, "restart", step_restart },
	{ 60, "rollback", step_rollback }, { 40, "crash", step_crash },	     { 50, "error", step_error },
	{ 40, "full", step_full },	{ 50, "flip", step_flip },
};

static void step(unsigned long number, bool verbose)
{
	unsigned n = luck(1000);
	size_t i = 0;

	io_faults.short_every = luck(4) ? 0 : 3;
	io_faults.reorder = luck(2);
	make_room();
	for (; n >= kinds[i].share; i++)
		n -= kinds[i].share;
	if (verbose)
		print_message("step %lu: %s, state %llu\n", number, kinds[i].name, (unsigned long long)present()->id);
	kinds[i].run();
}

static void test_model(void **user)
{
	unsigned long steps = getenv("STEPS") ? strtoul(getenv("STEPS"), NULL, 10) : 2500;
	unsigned seed = random_seed();

	(void)user;
	print_message("%lu steps, seed %u\n", steps, seed);
	world_begin("undo-model", seed);
	for (unsigned long i = 0; i < steps; i++) {
		step(i, getenv("VERBOSE") != NULL);
		check_all(16);
	}
	print_message("epochs %lu, dropped %lu, restarts %lu, kills %lu, power cuts %lu, survived %lu, rollbacks %lu, stopped %lu, merges %lu, points "
		      "given up %lu, I/O errors %lu, full %lu, flips %lu of which %lu reads were refused\n",
		      done.epochs, done.drops, done.restarts, done.kills, done.cuts, done.survived, done.rollbacks, done.stopped, done.merges,
		      done.given_up, done.errors, done.full, done.flips, done.refused);
	world_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_model) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
