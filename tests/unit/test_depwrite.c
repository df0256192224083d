/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of the judge in tests/vm/tools/depwrite.c. Writers are simulated on a
 * clock of their own, and so are copies: right ones, which must pass whatever was
 * in flight, and ones with a seeded fault, each of which must be found.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define main depwrite_main
#include "tests/vm/tools/depwrite.c"
#undef main

enum { DISKS = 3, THREADS = 4, REGION = 515, RECORDS = 1000, ROUNDS = 40 };
#define CUT	100000000ull	/* ns; records go on to more than twice that */
#define US	1000ull

static struct state *state;
static struct sector *copies[DISKS];
static uint64_t dice;

static uint64_t roll(uint64_t n)
{
	dice = dice * 6364136223846793005ull + 1442695040888963407ull;
	return mix(dice) % n;
}

static size_t sectors(void)
{
	return (size_t)THREADS * REGION;
}

/* Every record of every thread: 40 to 440 us each, a gap of up to 20 us between two. */
static void simulate(uint64_t seed, uint32_t disks)
{
	dice = seed;
	state->seed = seed;
	state->disks = disks;
	for (uint32_t t = 0; t < THREADS; t++) {
		uint64_t clock = roll(500 * US);

		for (uint64_t i = 0; i < RECORDS; i++) {
			note_submit(state, t, i, clock);
			clock += 40 * US + roll(400 * US);
			note_complete(state, t, i, clock);
			clock += roll(20 * US);
		}
		assert_true(clock > CUT * 2);
	}
}

/* DISK as it was at NS; of a record in flight each sector is old, new or a mixture. */
static void draw(struct sector *disk, uint32_t number, uint64_t ns)
{
	memset(disk, 0, sectors() * SECTOR);
	for (uint32_t t = 0; t < THREADS; t++) {
		for (uint64_t i = number; i < RECORDS; i += state->disks) {
			const struct times *when = times_of(state, t, i);
			struct record rec = record_of(state, t, i);
			bool flying = when->complete_ns > ns;
			unsigned int much = (unsigned int)roll(5);

			if (when->submit_ns > ns)
				break;
			for (uint32_t x = rec.start; x < rec.start + rec.count; x++) {
				uint8_t *at = (uint8_t *)(disk + (size_t)t * REGION + x);
				struct sector new;

				make_sector(state, t, i, &rec, x, &new);
				if (!flying || much == 0)
					memcpy(at, &new, SECTOR);
				else if (much == 1)
					continue;
				else if (much == 2 && roll(2))
					memcpy(at, &new, roll(SECTOR));
				else if (roll(2))
					memcpy(at, &new, SECTOR);
			}
		}
	}
}

static void draw_all(uint64_t ns)
{
	for (uint32_t d = 0; d < state->disks; d++)
		draw(copies[d], d, ns);
}

static struct verdict judge(uint64_t before, uint64_t after)
{
	struct verdict v = { .quiet = true };

	check(state, copies, before, after, &v);
	return v;
}

static void found(const char *what, uint64_t seed, uint64_t before, uint64_t after)
{
	if (!judge(before, after).violations)
		fail_msg("%s: not found with seed %" PRIu64, what, seed);
}

static int set_up(void **unused)
{
	(void)unused;
	state = calloc(1, state_bytes(THREADS, RECORDS));
	state->magic = MAGIC;
	state->threads = THREADS;
	state->disks = DISKS;
	state->region = REGION;
	state->ring = RECORDS;
	for (uint32_t d = 0; d < DISKS; d++)
		copies[d] = calloc(sectors(), SECTOR);
	return 0;
}

static int tear_down(void **unused)
{
	(void)unused;
	for (uint32_t d = 0; d < DISKS; d++)
		free(copies[d]);
	free(state);
	return 0;
}

static void an_instant_passes(void **unused)
{
	uint64_t torn = 0, partial = 0;

	(void)unused;
	for (uint64_t seed = 1; seed <= ROUNDS; seed++) {
		uint64_t cut = CUT - roll(50000 * US), slack = roll(300 * US);
		struct verdict v;

		simulate(seed, seed % 10 ? DISKS : 2);
		draw_all(cut);
		v = judge(cut - slack, cut + slack);
		if (v.violations)
			fail_msg("seed %" PRIu64 ": a right copy is refused", seed);
		assert_true(v.from.ns <= cut && cut <= v.to.ns);
		assert_true(v.to.ns - v.from.ns < 500 * US);
		torn += v.torn;
		partial += v.partial;
	}
	assert_true(torn > ROUNDS);
	assert_true(partial > ROUNDS);
}

static void the_first_and_the_last_instant_pass(void **unused)
{
	(void)unused;
	simulate(7, DISKS);
	draw_all(0);
	assert_int_equal(judge(0, 1).violations, 0);
	draw_all(CUT * 4);
	assert_int_equal(judge(CUT * 4, CUT * 4 + 1).violations, 0);
}

/* The seeded bug "cut on one disk 1 ms later", and sooner; the bounds of the cut do not help. */
static void a_disk_cut_at_another_time(void **unused)
{
	(void)unused;
	for (uint64_t seed = 1; seed <= ROUNDS; seed++) {
		uint32_t d = (uint32_t)(seed % DISKS);

		simulate(seed, DISKS);
		draw_all(CUT);
		draw(copies[d], d, CUT + 1000 * US);
		found("a disk cut 1 ms later", seed, CUT - 20000 * US, CUT + 20000 * US);
		draw(copies[d], d, CUT - 1000 * US);
		found("a disk cut 1 ms sooner", seed, CUT - 20000 * US, CUT + 20000 * US);
	}
}

/* Whether sector AT of DISK may be old or new at an instant from FROM to TO. */
static bool in_flight(uint32_t disk, size_t at, uint64_t from, uint64_t to)
{
	uint32_t t = (uint32_t)(at / REGION);

	for (uint64_t i = disk; i < RECORDS; i += state->disks) {
		const struct times *when = times_of(state, t, i);
		struct record rec = record_of(state, t, i);

		if (when->submit_ns <= to && when->complete_ns >= from &&
		    covers(&rec, disk, (uint32_t)(at % REGION)))
			return true;
	}
	return false;
}

/* One granule of 4 KiB is of another time: preserve was skipped, or a change was not copied. */
static void a_granule_of_another_time(void **unused)
{
	struct sector *other = calloc(sectors(), SECTOR);
	const uint64_t from = CUT - 10 * US, to = CUT + 10 * US;
	unsigned int seeded = 0;

	(void)unused;
	for (uint64_t seed = 1; seed <= 2 * ROUNDS; seed++) {
		uint32_t d = (uint32_t)(seed % DISKS);
		bool wrong = false;
		size_t granule;

		simulate(seed, DISKS);
		draw_all(CUT);
		draw(other, d, seed & 1 ? CUT - 3000 * US : CUT + 3000 * US);
		for (int tries = 0; tries < 2000 && !wrong; tries++) {
			granule = roll(sectors() / 8) * 8;
			for (size_t at = granule; at < granule + 8; at++)
				wrong |= memcmp(&copies[d][at], &other[at], SECTOR) &&
					 !in_flight(d, at, from, to);
		}
		if (!wrong)
			continue;
		memcpy(copies[d] + granule, other + granule, 8 * SECTOR);
		found(seed & 1 ? "a granule too old" : "a granule too new", seed, from, to);
		seeded++;
	}
	free(other);
	assert_true(seeded > ROUNDS);
}

static void a_sector_damaged(void **unused)
{
	(void)unused;
	for (uint64_t seed = 1; seed <= ROUNDS; seed++) {
		struct sector *disk = copies[seed % DISKS], saved;
		size_t at = roll(sectors()), other;

		simulate(seed, DISKS);
		draw_all(CUT);
		saved = disk[at];

		((uint8_t *)&disk[at])[roll(SECTOR)] ^= (uint8_t)(1u << roll(8));
		found("one bit", seed, CUT, CUT);
		disk[at] = saved;

		memset((uint8_t *)&disk[at] + 256, 0xa5, 256);
		found("half a sector", seed, CUT, CUT);
		disk[at] = saved;

		do {
			other = roll(sectors());
		} while (other == at || (is_zero(&disk[other]) && is_zero(&disk[at])));
		disk[at] = disk[other];
		found("a sector in the wrong place", seed, CUT, CUT);
		disk[at] = saved;

		disk[at] = copies[(seed + 1) % DISKS][at];
		if (!is_zero(&disk[at]) || !is_zero(&saved))
			found("a sector of another disk", seed, CUT, CUT);
		disk[at] = saved;
		assert_int_equal(judge(CUT, CUT).violations, 0);
	}
}

/* What was there long since is gone. */
static void zeros(void **unused)
{
	(void)unused;
	for (uint64_t seed = 1; seed <= ROUNDS; seed++) {
		struct sector *disk = copies[seed % DISKS];
		struct verdict v;
		size_t at;

		simulate(seed, DISKS);
		draw_all(CUT);
		do {
			at = roll(sectors());
		} while (is_zero(&disk[at]));
		memset(&disk[at], 0, SECTOR);
		v = judge(CUT - 500 * US, CUT + 500 * US);
		/* In flight over a sector never written before: zeros are what was there. */
		assert_true(v.violations || v.partial);
		if (!v.violations)
			assert_true(disk[at].magic == 0);

		simulate(seed, DISKS);
		draw_all(CUT);
		memset(disk, 0, sectors() * SECTOR);
		found("a disk of zeros", seed, CUT, CUT);
	}
}

static void another_run(void **unused)
{
	(void)unused;
	simulate(2, DISKS);
	draw_all(CUT);
	state->seed = 3;
	found("a copy of another run", 2, CUT, CUT);
}

/* The copy is of one instant, but not of that of the cut. */
static void the_wrong_instant(void **unused)
{
	(void)unused;
	for (uint64_t seed = 1; seed <= ROUNDS; seed++) {
		simulate(seed, DISKS);
		draw_all(CUT);
		found("a copy too old", seed, CUT + 1000 * US, CUT + 1001 * US);
		found("a copy too new", seed, CUT - 1001 * US, CUT - 1000 * US);
	}
}

/* The writer has gone on so far that it remembers nothing of the copy's time. */
static void a_copy_older_than_memory(void **unused)
{
	(void)unused;
	simulate(5, DISKS);
	draw_all(CUT);
	state->ring = 400;
	simulate(5, DISKS);
	found("a copy of long ago", 5, CUT * 21 / 10, CUT * 21 / 10);
	state->ring = RECORDS;
}

/* The writer and the judge together, on files: all is there at the end. */
static void a_real_writer(void **unused)
{
	char path[64] = "/tmp/test_depwrite.XXXXXX", name[DISKS + 1][96], *args[16];
	int n = 0;

	(void)unused;
	assert_non_null(mkdtemp(path));
	for (int i = 0; i <= DISKS; i++) {
		snprintf(name[i], sizeof(name[i]), "%s/%d", path, i);
		close(open(name[i], O_RDWR | O_CREAT, 0600));
		assert_int_equal(truncate(name[i], 8 << 20), 0);
	}
	args[n++] = name[DISKS];
	args[n++] = (char *)"--seconds";
	args[n++] = (char *)"1";
	for (int i = 0; i < DISKS; i++)
		args[n++] = name[i];
	stop = 0;
	assert_int_equal(run_writer(n, args), 0);
	n = 1;
	args[n++] = (char *)"0";
	args[n] = (char *)calloc(1, 32);
	snprintf(args[n++], 32, "%" PRIu64, now_ns());
	for (int i = 0; i < DISKS; i++)
		args[n++] = name[i];
	assert_int_equal(run_check(n, args), 0);
	args[1] = args[2];
	assert_int_equal(run_check(n, args), 0);
	/* Disks in the wrong order. */
	args[3] = name[1];
	args[4] = name[0];
	assert_int_equal(run_check(n, args), 1);
	free(args[2]);
	for (int i = 0; i <= DISKS; i++)
		unlink(name[i]);
	rmdir(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_instant_passes),
		cmocka_unit_test(the_first_and_the_last_instant_pass),
		cmocka_unit_test(a_disk_cut_at_another_time),
		cmocka_unit_test(a_granule_of_another_time),
		cmocka_unit_test(a_sector_damaged),
		cmocka_unit_test(zeros),
		cmocka_unit_test(another_run),
		cmocka_unit_test(the_wrong_instant),
		cmocka_unit_test(a_copy_older_than_memory),
		cmocka_unit_test(a_real_writer),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
