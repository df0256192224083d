// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Decoding of SCSI command blocks, for the auditor. The formats are those of
 * SBC-4 (writes), SPC-5 (primary commands) and SAT-4 (ATA pass-through).
 *
 * The rule: a command that names its blocks changes those; a command that is
 * known to change none is harmless; of the rest, whatever sends data or
 * transfers none (FORMAT, SANITIZE, vendor's own) may have changed the whole
 * disk. Commands that fetch data are taken to change nothing.
 */
#include "scsi_cdb.h"

#define CDB_MAX		32

static u32 be16_at(const u8 *p)
{
	return (u32)p[0] << 8 | p[1];
}

static u32 be32_at(const u8 *p)
{
	return be16_at(p) << 16 | be16_at(p + 2);
}

static u64 be64_at(const u8 *p)
{
	return (u64)be32_at(p) << 32 | be32_at(p + 4);
}

static enum blkcbt_cdb_effect range(u64 at, u64 count, u64 *lba, u64 *blocks)
{
	*lba = at;
	*blocks = count;
	return count ? BLKCBT_CDB_RANGE : BLKCBT_CDB_HARMLESS;
}

/* WRITE SAME: no number of blocks means up to the end. */
static enum blkcbt_cdb_effect same(u64 at, u64 count, u64 *lba, u64 *blocks)
{
	return range(at, count ? count : ~0ULL - at, lba, blocks);
}

/* Service actions of VARIABLE LENGTH CDB (7Fh). */
static enum blkcbt_cdb_effect decode_32(const u8 *c, unsigned int len, enum blkcbt_cdb_data data,
					u64 *lba, u64 *blocks)
{
	u64 at, count;

	if (len < CDB_MAX)
		return BLKCBT_CDB_WHOLE;
	at = be64_at(c + 12);
	count = be32_at(c + 28);
	switch (be16_at(c + 8)) {
	case 0x0009:	/* READ(32) */
	case 0x000a:	/* VERIFY(32) */
		return BLKCBT_CDB_HARMLESS;
	case 0x000b:	/* WRITE(32) */
	case 0x000c:	/* WRITE AND VERIFY(32) */
	case 0x000e:	/* ORWRITE(32) */
		return range(at, count, lba, blocks);
	case 0x000d:	/* WRITE SAME(32) */
		return same(at, count, lba, blocks);
	}
	return data == BLKCBT_CDB_DATA_IN ? BLKCBT_CDB_HARMLESS : BLKCBT_CDB_WHOLE;
}

/* ATA commands without data, or harmless with it, inside ATA PASS-THROUGH. */
static enum blkcbt_cdb_effect decode_ata(u8 command, enum blkcbt_cdb_data data)
{
	if (data == BLKCBT_CDB_DATA_IN)
		return BLKCBT_CDB_HARMLESS;
	switch (command) {
	case 0x40:	/* READ VERIFY SECTORS */
	case 0x42:	/* READ VERIFY SECTORS EXT */
	case 0xb0:	/* SMART */
	case 0xe0:	/* STANDBY IMMEDIATE */
	case 0xe1:	/* IDLE IMMEDIATE */
	case 0xe2:	/* STANDBY */
	case 0xe3:	/* IDLE */
	case 0xe5:	/* CHECK POWER MODE */
	case 0xe6:	/* SLEEP */
	case 0xe7:	/* FLUSH CACHE */
	case 0xea:	/* FLUSH CACHE EXT */
	case 0xef:	/* SET FEATURES */
		return BLKCBT_CDB_HARMLESS;
	}
	return BLKCBT_CDB_WHOLE;
}

/* Commands that send or transfer nothing to the medium, whatever their direction. */
static bool harmless(const u8 *c)
{
	switch (c[0]) {
	case 0x00:	/* TEST UNIT READY */
	case 0x01:	/* REZERO UNIT */
	case 0x03:	/* REQUEST SENSE */
	case 0x08:	/* READ(6) */
	case 0x0b:	/* SEEK(6) */
	case 0x12:	/* INQUIRY */
	case 0x15:	/* MODE SELECT(6) */
	case 0x16:	/* RESERVE(6) */
	case 0x17:	/* RELEASE(6) */
	case 0x1a:	/* MODE SENSE(6) */
	case 0x1b:	/* START STOP UNIT */
	case 0x1c:	/* RECEIVE DIAGNOSTIC RESULTS */
	case 0x1d:	/* SEND DIAGNOSTIC */
	case 0x1e:	/* PREVENT ALLOW MEDIUM REMOVAL */
	case 0x25:	/* READ CAPACITY(10) */
	case 0x28:	/* READ(10) */
	case 0x2b:	/* SEEK(10) */
	case 0x2f:	/* VERIFY(10) */
	case 0x34:	/* PRE-FETCH(10) */
	case 0x35:	/* SYNCHRONIZE CACHE(10) */
	case 0x3b:	/* WRITE BUFFER */
	case 0x4c:	/* LOG SELECT */
	case 0x4d:	/* LOG SENSE */
	case 0x55:	/* MODE SELECT(10) */
	case 0x56:	/* RESERVE(10) */
	case 0x57:	/* RELEASE(10) */
	case 0x5a:	/* MODE SENSE(10) */
	case 0x5e:	/* PERSISTENT RESERVE IN */
	case 0x5f:	/* PERSISTENT RESERVE OUT */
	case 0x88:	/* READ(16) */
	case 0x8f:	/* VERIFY(16) */
	case 0x90:	/* PRE-FETCH(16) */
	case 0x91:	/* SYNCHRONIZE CACHE(16) */
	case 0xa0:	/* REPORT LUNS */
	case 0xa2:	/* SECURITY PROTOCOL IN */
	case 0xa3:	/* MAINTENANCE IN */
	case 0xa8:	/* READ(12) */
	case 0xaf:	/* VERIFY(12) */
		return true;
	case 0xa4:	/* MAINTENANCE OUT */
		switch (c[1] & 0x1f) {
		case 0x06:	/* SET IDENTIFYING INFORMATION */
		case 0x0a:	/* SET TARGET PORT GROUPS */
		case 0x0b:	/* CHANGE ALIASES */
		case 0x0e:	/* SET PRIORITY */
		case 0x0f:	/* SET TIMESTAMP */
			return true;
		}
		return false;
	}
	return false;
}

/**
 * blkcbt_cdb_decode() - what a command does to the disk
 * @cdb: the command block
 * @len: its length in bytes; bytes beyond it are not looked at
 * @data: what the command transfers
 * @lba: first logical block changed, for %BLKCBT_CDB_RANGE
 * @blocks: how many; may reach beyond the end of the disk (the caller clamps)
 *
 * Return: the effect. In doubt, the whole disk.
 */
enum blkcbt_cdb_effect blkcbt_cdb_decode(const u8 *cdb, unsigned int len,
					 enum blkcbt_cdb_data data, u64 *lba, u64 *blocks)
{
	u8 c[CDB_MAX] = { 0 };

	if (!len)
		return BLKCBT_CDB_WHOLE;
	len = min_t(unsigned int, len, CDB_MAX);
	memcpy(c, cdb, len);

	switch (c[0]) {
	case 0x0a:	/* WRITE(6): 21 bits of address, 0 means 256 */
		return range(be32_at(c) & 0x1fffff, c[4] ? c[4] : 256, lba, blocks);
	case 0x2a:	/* WRITE(10) */
	case 0x2e:	/* WRITE AND VERIFY(10) */
		return range(be32_at(c + 2), be16_at(c + 7), lba, blocks);
	case 0xaa:	/* WRITE(12) */
	case 0xae:	/* WRITE AND VERIFY(12) */
		return range(be32_at(c + 2), be32_at(c + 6), lba, blocks);
	case 0x8a:	/* WRITE(16) */
	case 0x8b:	/* ORWRITE(16) */
	case 0x8e:	/* WRITE AND VERIFY(16) */
		return range(be64_at(c + 2), be32_at(c + 10), lba, blocks);
	case 0x89:	/* COMPARE AND WRITE */
		return range(be64_at(c + 2), c[13], lba, blocks);
	case 0x9c:	/* WRITE ATOMIC(16) */
		return range(be64_at(c + 2), be16_at(c + 12), lba, blocks);
	case 0x41:	/* WRITE SAME(10) */
		return same(be32_at(c + 2), be16_at(c + 7), lba, blocks);
	case 0x93:	/* WRITE SAME(16) */
		return same(be64_at(c + 2), be32_at(c + 10), lba, blocks);
	case 0x7f:
		return decode_32(c, len, data, lba, blocks);
	case 0x85:	/* ATA PASS-THROUGH(16) */
		return decode_ata(c[14], data);
	case 0xa1:	/* ATA PASS-THROUGH(12) */
		return decode_ata(c[9], data);
	}
	if (data == BLKCBT_CDB_DATA_IN || harmless(c))
		return BLKCBT_CDB_HARMLESS;
	return BLKCBT_CDB_WHOLE;
}
