/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a SCSI command that did not come from the disk driver (SG_IO, bsg, a
 * management tool) does to the blocks of a disk.
 *
 * Pure: compiled by the unit tests as well.
 */
#ifndef BLKCBT_SCSI_CDB_H
#define BLKCBT_SCSI_CDB_H

#include "pure.h"

enum blkcbt_cdb_effect {
	BLKCBT_CDB_HARMLESS,	/* changes no block */
	BLKCBT_CDB_RANGE,	/* changes the blocks it names */
	BLKCBT_CDB_WHOLE,	/* may change any block */
};

enum blkcbt_cdb_data { BLKCBT_CDB_NO_DATA, BLKCBT_CDB_DATA_IN, BLKCBT_CDB_DATA_OUT };

enum blkcbt_cdb_effect blkcbt_cdb_decode(const u8 *cdb, unsigned int len,
					 enum blkcbt_cdb_data data, u64 *lba, u64 *blocks);

#endif /* BLKCBT_SCSI_CDB_H */
