// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The decoding of SCSI commands (kmod/scsi_cdb.c): what each does to the disk,
 * above all that no command that writes passes for harmless.
 */
#include "../../kmod/scsi_cdb.h"
#include "harness.h"

#define OUT	BLKCBT_CDB_DATA_OUT
#define IN	BLKCBT_CDB_DATA_IN
#define NONE	BLKCBT_CDB_NO_DATA
#define WHOLE	BLKCBT_CDB_WHOLE
#define RANGE	BLKCBT_CDB_RANGE
#define FINE	BLKCBT_CDB_HARMLESS

static const enum blkcbt_cdb_data directions[] = { NONE, IN, OUT };

struct command {
	const char *name;
	u8 cdb[32];
	unsigned int len;
	enum blkcbt_cdb_data data;
	enum blkcbt_cdb_effect effect;
	u64 lba, blocks;		/* of a range */
};

/* VARIABLE LENGTH CDB with a service action: address in bytes 12 to 19, blocks in 28 to 31. */
#define CDB32(action, ...)	{ 0x7f, [7] = 24, [9] = (action), ##__VA_ARGS__ }

static const struct command commands[] = {
	{ "WRITE(6)", { 0x0a, 0xff, 0x34, 0x56, 2 }, 6, OUT, RANGE, 0x1f3456, 2 },
	{ "WRITE(6) of 256", { 0x0a, 0, 0, 1, 0 }, 6, OUT, RANGE, 1, 256 },
	{ "WRITE(6) of 255", { 0x0a, 0, 0, 0, 255 }, 6, OUT, RANGE, 0, 255 },
	{ "WRITE(10)", { 0x2a, 0, 1, 2, 3, 4, 0, 5, 6 }, 10, OUT, RANGE, 0x01020304, 0x0506 },
	{ "WRITE(10), the most", { 0x2a, 0, 255, 255, 255, 255, 0, 255, 255 }, 10, OUT, RANGE,
	  0xffffffff, 0xffff },
	{ "WRITE(10) of none", { 0x2a, 0, 1, 2, 3, 4 }, 10, OUT, FINE, 0, 0 },
	{ "WRITE(12)", { 0xaa, 0, 0xff, 2, 3, 4, 1, 0, 0, 9 }, 12, OUT, RANGE,
	  0xff020304, 0x01000009 },
	{ "WRITE(12), the most", { 0xaa, 0, 255, 255, 255, 255, 255, 255, 255, 255 }, 12, OUT,
	  RANGE, 0xffffffff, 0xffffffff },
	{ "WRITE(12) of none", { 0xaa, 0, 1 }, 12, OUT, FINE, 0, 0 },
	{ "WRITE(16)", { 0x8a, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 1, 0 }, 16, OUT, RANGE,
	  0x0102030405060708, 256 },
	{ "WRITE(16), the most", { 0x8a, 0, 255, 255, 255, 255, 255, 255, 255, 255,
	  255, 255, 255, 255 }, 16, OUT, RANGE, ~0ULL, 0xffffffff },
	{ "WRITE(16) of none", { 0x8a, 0, 1 }, 16, OUT, FINE, 0, 0 },
	{ "WRITE(32)", CDB32(0x0b, [12] = 1, 2, 3, 4, 5, 6, 7, 8, [28] = 9, 8, 7, 6), 32, OUT,
	  RANGE, 0x0102030405060708, 0x09080706 },
	{ "WRITE(32) of none", CDB32(0x0b, [19] = 1), 32, OUT, FINE, 0, 0 },
	{ "WRITE(32), short", CDB32(0x0b, [31] = 1), 31, OUT, WHOLE, 0, 0 },
	{ "WRITE(32), half", CDB32(0x0b), 16, OUT, WHOLE, 0, 0 },
	{ "WRITE AND VERIFY(10)", { 0x2e, 0, 0, 0, 0, 4, 0, 0, 8 }, 10, OUT, RANGE, 4, 8 },
	{ "WRITE AND VERIFY(12)", { 0xae, 0, 0, 0, 0, 4, 0, 0, 0, 8 }, 12, OUT, RANGE, 4, 8 },
	{ "WRITE AND VERIFY(16)", { 0x8e, [9] = 4, [13] = 8 }, 16, OUT, RANGE, 4, 8 },
	{ "WRITE AND VERIFY(32)", CDB32(0x0c, [19] = 4, [31] = 8), 32, OUT, RANGE, 4, 8 },
	{ "ORWRITE(16)", { 0x8b, [9] = 4, [13] = 8 }, 16, OUT, RANGE, 4, 8 },
	{ "ORWRITE(32)", CDB32(0x0e, [19] = 4, [31] = 8), 32, OUT, RANGE, 4, 8 },
	{ "COMPARE AND WRITE", { 0x89, [9] = 4, [10] = 9, 9, 9, 3 }, 16, OUT, RANGE, 4, 3 },
	{ "WRITE ATOMIC(16)", { 0x9c, [9] = 4, [10] = 9, 9, 1, 3 }, 16, OUT, RANGE, 4, 0x103 },
	{ "WRITE SAME(10)", { 0x41, 0, 0, 0, 0, 4, 0, 0, 8 }, 10, OUT, RANGE, 4, 8 },
	{ "WRITE SAME(10) to the end", { 0x41, 0, 0, 0, 0, 4 }, 10, OUT, RANGE, 4, ~0ULL - 4 },
	{ "WRITE SAME(16)", { 0x93, [2] = 1, [9] = 4, [10] = 1, [13] = 8 }, 16, OUT, RANGE,
	  0x0100000000000004, 0x01000008 },
	{ "WRITE SAME(16), no data", { 0x93, 1, [9] = 4, [13] = 8 }, 16, NONE, RANGE, 4, 8 },
	{ "WRITE SAME(16), unmap", { 0x93, 8, [9] = 4, [13] = 8 }, 16, OUT, RANGE, 4, 8 },
	{ "WRITE SAME(16) to the end", { 0x93 }, 16, OUT, RANGE, 0, ~0ULL },
	{ "WRITE SAME(16) to the end from the last",
	  { 0x93, 0, 255, 255, 255, 255, 255, 255, 255, 254 }, 16, OUT, RANGE, ~0ULL - 1, 1 },
	{ "WRITE SAME(32)", CDB32(0x0d, [19] = 9, [31] = 5), 32, OUT, RANGE, 9, 5 },
	{ "WRITE SAME(32) to the end", CDB32(0x0d, [19] = 9), 32, OUT, RANGE, 9, ~0ULL - 9 },
	{ "READ(32)", CDB32(0x09, [31] = 1), 32, IN, FINE, 0, 0 },
	{ "VERIFY(32) with data", CDB32(0x0a, [31] = 1), 32, OUT, FINE, 0, 0 },
	{ "XDWRITE(32)", CDB32(0x04, [31] = 1), 32, OUT, WHOLE, 0, 0 },
	{ "service action above a byte", CDB32(0x0b, [8] = 1, [31] = 1), 32, OUT, WHOLE, 0, 0 },
	{ "unknown service action, in", CDB32(0x77), 32, IN, FINE, 0, 0 },
	{ "unknown service action, no data", CDB32(0x77), 32, NONE, WHOLE, 0, 0 },
	{ "UNMAP", { 0x42 }, 10, OUT, WHOLE, 0, 0 },
	{ "FORMAT UNIT", { 0x04 }, 6, NONE, WHOLE, 0, 0 },
	{ "SANITIZE", { 0x48, 3 }, 10, NONE, WHOLE, 0, 0 },
	{ "EXTENDED COPY", { 0x83 }, 16, OUT, WHOLE, 0, 0 },
	{ "WRITE LONG(10)", { 0x3f }, 10, OUT, WHOLE, 0, 0 },
	{ "WRITE LONG(16)", { 0x9f, 0x11 }, 16, OUT, WHOLE, 0, 0 },
	{ "WRITE SCATTERED", { 0x9f, 0x12 }, 16, OUT, WHOLE, 0, 0 },
	{ "READ CAPACITY(16)", { 0x9e, 0x10 }, 16, IN, FINE, 0, 0 },
	{ "SECURITY PROTOCOL OUT", { 0xb5 }, 12, OUT, WHOLE, 0, 0 },
	{ "REASSIGN BLOCKS", { 0x07 }, 6, OUT, WHOLE, 0, 0 },
	{ "vendor's own, out", { 0xc5 }, 6, OUT, WHOLE, 0, 0 },
	{ "vendor's own, no data", { 0xc5 }, 6, NONE, WHOLE, 0, 0 },
	{ "vendor's own, in", { 0xc5 }, 6, IN, FINE, 0, 0 },
	{ "no command at all", { 0 }, 0, OUT, WHOLE, 0, 0 },
	{ "no command at all, in", { 0 }, 0, IN, WHOLE, 0, 0 },
	{ "TEST UNIT READY", { 0x00 }, 6, NONE, FINE, 0, 0 },
	{ "INQUIRY", { 0x12 }, 6, IN, FINE, 0, 0 },
	{ "MODE SELECT(10)", { 0x55 }, 10, OUT, FINE, 0, 0 },
	{ "LOG SELECT", { 0x4c }, 10, OUT, FINE, 0, 0 },
	{ "SEND DIAGNOSTIC", { 0x1d }, 6, OUT, FINE, 0, 0 },
	{ "PERSISTENT RESERVE OUT", { 0x5f }, 10, OUT, FINE, 0, 0 },
	{ "SYNCHRONIZE CACHE(10)", { 0x35 }, 10, NONE, FINE, 0, 0 },
	{ "VERIFY(10) with data", { 0x2f, 2 }, 10, OUT, FINE, 0, 0 },
	{ "SET TARGET PORT GROUPS", { 0xa4, 0x0a }, 12, OUT, FINE, 0, 0 },
	{ "MAINTENANCE OUT, other", { 0xa4, 0x1f }, 12, OUT, WHOLE, 0, 0 },
	{ "ATA CHECK POWER MODE", { [0] = 0x85, [14] = 0xe5 }, 16, NONE, FINE, 0, 0 },
	{ "ATA SANITIZE", { [0] = 0x85, [14] = 0xb4 }, 16, NONE, WHOLE, 0, 0 },
	{ "ATA TRIM", { [0] = 0xa1, [9] = 0x06 }, 12, OUT, WHOLE, 0, 0 },
	{ "ATA IDENTIFY", { [0] = 0xa1, [9] = 0xec }, 12, IN, FINE, 0, 0 },
	{ "ATA WRITE DMA", { [0] = 0x85, [14] = 0x35 }, 16, OUT, WHOLE, 0, 0 },
};

static void command_desc(const struct command *command, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%s", command->name);
}

KUNIT_ARRAY_PARAM(command, commands, command_desc);

static void one_command(struct kunit *test)
{
	const struct command *c = test->param_value;
	u64 lba = 0, blocks = 0;

	KUNIT_EXPECT_EQ(test, blkcbt_cdb_decode(c->cdb, c->len, c->data, &lba, &blocks), c->effect);
	if (c->effect != RANGE)
		return;
	KUNIT_EXPECT_EQ(test, lba, c->lba);
	KUNIT_EXPECT_EQ(test, blocks, c->blocks);
}

/*
 * Every opcode in a CDB of 16 bytes, ones behind it, sixteen in a row: w names
 * the blocks it writes, . is harmless in any direction, everything else is the
 * whole disk, unless it fetches data (-). 7f is too short here to say what (!).
 */
static const char classes[] =
	/* 00 */ "..-.----.-w.----"
	/* 10 */ "--.--...--.....-"
	/* 20 */ "-----.--.-w.--w."
	/* 30 */ "----..-----.----"
	/* 40 */ "-w----------..--"
	/* 50 */ "-----...--.---.."
	/* 60 */ "----------------"
	/* 70 */ "---------------!"
	/* 80 */ "--------.www--w."
	/* 90 */ "..-w--------w---"
	/* a0 */ ".-..----.-w---w."
	/* b0 */ "----------------"
	/* c0 */ "----------------"
	/* d0 */ "----------------"
	/* e0 */ "----------------"
	/* f0 */ "----------------";

static void every_opcode(struct kunit *test)
{
	unsigned int op, i;

	KUNIT_ASSERT_EQ(test, sizeof(classes), 257);
	for (op = 0; op < 256; op++) {
		for (i = 0; i < ARRAY_SIZE(directions); i++) {
			enum blkcbt_cdb_effect expected = WHOLE;
			u64 lba, blocks;
			u8 cdb[32];

			if (classes[op] == 'w')
				expected = RANGE;
			else if (classes[op] == '.' || (classes[op] == '-' && directions[i] == IN))
				expected = FINE;
			memset(cdb, 1, sizeof(cdb));
			cdb[0] = (u8)op;
			KUNIT_EXPECT_EQ_MSG(test, blkcbt_cdb_decode(cdb, 16, directions[i], &lba,
								    &blocks), expected,
					    "opcode %02x, direction %d", op, directions[i]);
		}
	}
}

/* Where each command that names its blocks has them. */
struct format {
	const char *name;
	u8 opcode, action;
	unsigned int len, lba_at, lba_len, count_at, count_len;
	bool same;
};

static const struct format formats[] = {
	{ "WRITE(10)", 0x2a, 0, 10, 2, 4, 7, 2, false },
	{ "WRITE AND VERIFY(10)", 0x2e, 0, 10, 2, 4, 7, 2, false },
	{ "WRITE SAME(10)", 0x41, 0, 10, 2, 4, 7, 2, true },
	{ "WRITE(12)", 0xaa, 0, 12, 2, 4, 6, 4, false },
	{ "WRITE AND VERIFY(12)", 0xae, 0, 12, 2, 4, 6, 4, false },
	{ "WRITE(16)", 0x8a, 0, 16, 2, 8, 10, 4, false },
	{ "ORWRITE(16)", 0x8b, 0, 16, 2, 8, 10, 4, false },
	{ "WRITE AND VERIFY(16)", 0x8e, 0, 16, 2, 8, 10, 4, false },
	{ "COMPARE AND WRITE", 0x89, 0, 16, 2, 8, 13, 1, false },
	{ "WRITE ATOMIC(16)", 0x9c, 0, 16, 2, 8, 12, 2, false },
	{ "WRITE SAME(16)", 0x93, 0, 16, 2, 8, 10, 4, true },
	{ "WRITE(32)", 0x7f, 0x0b, 32, 12, 8, 28, 4, false },
	{ "WRITE AND VERIFY(32)", 0x7f, 0x0c, 32, 12, 8, 28, 4, false },
	{ "WRITE SAME(32)", 0x7f, 0x0d, 32, 12, 8, 28, 4, true },
	{ "ORWRITE(32)", 0x7f, 0x0e, 32, 12, 8, 28, 4, false },
};

static void format_desc(const struct format *format, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%s", format->name);
}

KUNIT_ARRAY_PARAM(format, formats, format_desc);

static u64 field(const u8 *cdb, unsigned int at, unsigned int len)
{
	u64 value = 0;

	while (len--)
		value = value << 8 | cdb[at++];
	return value;
}

/* Random bytes in every field: address and count come out, and nothing else gets in. */
static void random_fields(struct kunit *test)
{
	const struct format *f = test->param_value;
	struct harness_rnd rnd = { .seed = 11 };
	unsigned int round, i;

	for (round = 0; round < 500; round++) {
		enum blkcbt_cdb_data data = directions[round % ARRAY_SIZE(directions)];
		u64 at, count, lba = 0, blocks = 0;
		u8 cdb[32];

		for (i = 0; i < sizeof(cdb); i++)
			cdb[i] = (u8)harness_rnd(&rnd, 256);
		cdb[0] = f->opcode;
		if (f->action) {
			cdb[8] = 0;
			cdb[9] = f->action;
		}
		if (round % 5 == 0)
			memset(cdb + f->count_at, 0, f->count_len);
		at = field(cdb, f->lba_at, f->lba_len);
		count = field(cdb, f->count_at, f->count_len);
		if (f->same && !count)
			count = ~0ULL - at;
		KUNIT_ASSERT_EQ(test, blkcbt_cdb_decode(cdb, f->len, data, &lba, &blocks),
				count ? RANGE : FINE);
		KUNIT_ASSERT_EQ(test, lba, at);
		KUNIT_ASSERT_EQ(test, blocks, count);
	}
}

/*
 * A CDB cut short reads as if zeros followed, as they do in the SCSI layer's
 * buffer; memory behind it, which has other bytes here, is not looked at.
 */
static void cut_short(struct kunit *test)
{
	const struct format *f = test->param_value;
	unsigned int len;

	for (len = 1; len <= f->len; len++) {
		u64 lba = 0, blocks = 0, at, count;
		enum blkcbt_cdb_effect expected;
		u8 cdb[32], known[32] = { 0 };

		memset(cdb, 0xa5, sizeof(cdb));
		cdb[0] = f->opcode;
		if (f->action) {
			cdb[8] = 0;
			cdb[9] = f->action;
		}
		memcpy(known, cdb, len);
		at = field(known, f->lba_at, f->lba_len);
		count = field(known, f->count_at, f->count_len);
		if (f->same && !count)
			count = ~0ULL - at;
		expected = count ? RANGE : FINE;
		/* of 32 bytes: not less */
		if (f->action && len < 32)
			expected = WHOLE;
		KUNIT_ASSERT_EQ_MSG(test, blkcbt_cdb_decode(cdb, len, OUT, &lba, &blocks), expected,
				    "of %u bytes", len);
		if (expected != RANGE)
			continue;
		KUNIT_ASSERT_EQ_MSG(test, lba, at, "of %u bytes", len);
		KUNIT_ASSERT_EQ_MSG(test, blocks, count, "of %u bytes", len);
	}
}

/* WRITE(6): 21 bits of address, a count of 0 is 256, cut short or not. */
static void write_6(struct kunit *test)
{
	u8 cdb[6] = { 0x0a, 0xff, 0xff, 0xff, 0, 0 };
	unsigned int count, len;
	u64 lba, blocks;

	for (count = 0; count < 256; count++) {
		cdb[4] = (u8)count;
		KUNIT_ASSERT_EQ(test, blkcbt_cdb_decode(cdb, 6, OUT, &lba, &blocks), RANGE);
		KUNIT_ASSERT_EQ(test, lba, 0x1fffff);
		KUNIT_ASSERT_EQ(test, blocks, count ? count : 256);
	}
	for (len = 1; len < 6; len++) {
		KUNIT_ASSERT_EQ(test, blkcbt_cdb_decode(cdb, len, OUT, &lba, &blocks), RANGE);
		KUNIT_ASSERT_EQ(test, lba, 0x1fffff & ~0U << (len < 4 ? 8 * (4 - len) : 0));
		KUNIT_ASSERT_EQ(test, blocks, len == 5 ? 255 : 256);
	}
}

/* A range never wraps unless the command itself asks for more than there can be. */
static void to_the_end_does_not_wrap(struct kunit *test)
{
	static const u8 lasts[] = { 0, 1, 0x7f, 0xfe, 0xff };
	u64 lba, blocks;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(lasts); i++) {
		u8 cdb[16] = { 0x93, 0, 255, 255, 255, 255, 255, 255, 255, lasts[i] };
		enum blkcbt_cdb_effect effect = blkcbt_cdb_decode(cdb, 16, OUT, &lba, &blocks);

		KUNIT_EXPECT_EQ(test, effect, lasts[i] == 0xff ? FINE : RANGE);
		KUNIT_EXPECT_EQ(test, lba + blocks, ~0ULL);
	}
}

/* Every service action of VARIABLE LENGTH CDB. */
static void every_service_action(struct kunit *test)
{
	unsigned int action, i;

	for (action = 0; action < 0x10000; action++) {
		for (i = 0; i < ARRAY_SIZE(directions); i++) {
			u8 cdb[32] = { [0] = 0x7f, [7] = 24, [8] = (u8)(action >> 8),
				       [9] = (u8)action, [31] = 1 };
			enum blkcbt_cdb_effect expected = directions[i] == IN ? FINE : WHOLE;
			u64 lba, blocks;

			if (action == 9 || action == 10)
				expected = FINE;
			else if (action >= 11 && action <= 14)
				expected = RANGE;
			KUNIT_ASSERT_EQ_MSG(test, blkcbt_cdb_decode(cdb, 32, directions[i], &lba,
								    &blocks), expected,
					    "action %04x, direction %d", action, directions[i]);
		}
	}
}

/* Every command inside ATA PASS-THROUGH: what is not known to be harmless is not. */
static void every_ata_command(struct kunit *test)
{
	static const u8 harmless[] = { 0x40, 0x42, 0xb0, 0xe0, 0xe1, 0xe2, 0xe3, 0xe5, 0xe6, 0xe7,
				       0xea, 0xef };
	unsigned int command, i, k;

	for (command = 0; command < 256; command++) {
		for (i = 0; i < ARRAY_SIZE(directions); i++) {
			u8 ata12[12] = { [0] = 0xa1, [9] = (u8)command };
			u8 ata16[16] = { [0] = 0x85, [14] = (u8)command };
			enum blkcbt_cdb_effect expected = directions[i] == IN ? FINE : WHOLE;
			u64 lba, blocks;

			for (k = 0; k < ARRAY_SIZE(harmless); k++)
				if (harmless[k] == command)
					expected = FINE;
			KUNIT_EXPECT_EQ_MSG(test, blkcbt_cdb_decode(ata12, 12, directions[i], &lba,
								    &blocks), expected,
					    "command %02x in 12 bytes", command);
			KUNIT_EXPECT_EQ_MSG(test, blkcbt_cdb_decode(ata16, 16, directions[i], &lba,
								    &blocks), expected,
					    "command %02x in 16 bytes", command);
		}
	}
}

/* Every service action of MAINTENANCE OUT; the upper bits of its byte are something else's. */
static void every_maintenance_out(struct kunit *test)
{
	unsigned int byte;

	for (byte = 0; byte < 256; byte++) {
		u8 cdb[12] = { 0xa4, (u8)byte };
		unsigned int action = byte & 0x1f;
		bool fine = action == 0x06 || action == 0x0a || action == 0x0b ||
			    action == 0x0e || action == 0x0f;
		u64 lba, blocks;

		KUNIT_EXPECT_EQ_MSG(test, blkcbt_cdb_decode(cdb, 12, OUT, &lba, &blocks),
				    fine ? FINE : WHOLE, "byte %02x", byte);
		KUNIT_EXPECT_EQ_MSG(test, blkcbt_cdb_decode(cdb, 12, IN, &lba, &blocks), FINE,
				    "byte %02x, in", byte);
	}
}

/* Any opcode in memory of just its length: nothing behind it is read. */
static void no_read_beyond(struct kunit *test)
{
	unsigned int op, len, i;

	for (len = 1; len <= 40; len++) {
		u8 *cdb = kunit_kzalloc(test, len, GFP_KERNEL);

		KUNIT_ASSERT_NOT_NULL(test, cdb);
		for (op = 0; op < 256; op++) {
			for (i = 0; i < ARRAY_SIZE(directions); i++) {
				u64 lba, blocks;

				cdb[0] = (u8)op;
				KUNIT_ASSERT_EQ(test, blkcbt_cdb_decode(cdb, len, directions[i],
									&lba, &blocks) <= WHOLE,
						true);
			}
		}
	}
}

/* Longer than any known format: the first 32 bytes count. */
static void longer_than_known(struct kunit *test)
{
	u8 cdb[260] = CDB32(0x0b, [19] = 4, [31] = 8);
	u64 lba = 0, blocks = 0;

	KUNIT_EXPECT_EQ(test, blkcbt_cdb_decode(cdb, sizeof(cdb), OUT, &lba, &blocks), RANGE);
	KUNIT_EXPECT_EQ(test, lba, 4);
	KUNIT_EXPECT_EQ(test, blocks, 8);
}

static struct kunit_case scsi_cdb_cases[] = {
	KUNIT_CASE_PARAM(one_command, command_gen_params),
	KUNIT_CASE(every_opcode),
	KUNIT_CASE_PARAM(random_fields, format_gen_params),
	KUNIT_CASE_PARAM(cut_short, format_gen_params),
	KUNIT_CASE(write_6),
	KUNIT_CASE(to_the_end_does_not_wrap),
	KUNIT_CASE(every_service_action),
	KUNIT_CASE(every_ata_command),
	KUNIT_CASE(every_maintenance_out),
	KUNIT_CASE(no_read_beyond),
	KUNIT_CASE(longer_than_known),
	{}
};

static struct kunit_suite scsi_cdb_suite = {
	.name = "scsi_cdb",
	.test_cases = scsi_cdb_cases,
};

kunit_test_suite(scsi_cdb_suite);
