/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuzz_tag: the payload of a TAG frame as a hostile agent would send it, and the tags in a state
 * file that somebody has damaged. The first byte is the epoch. What is accepted has to survive being
 * saved and loaded.
 *
 * LINK: userspace/master-target/tags.c
 */
#include <stdint.h>
#include <stdlib.h>

#include "userspace/master-target/tags.h"

static void check(int good)
{
	if (!good)
		abort();
}

/* As through the state file. */
static void same_when_loaded(const struct tags *tags, uint64_t last_applied)
{
	struct tags again = { 0 };
	json_t *saved = tags_save(tags);
	char *text = json_dumps(saved, JSON_COMPACT);
	json_t *json;

	check(text != NULL);
	json = json_loads(text, 0, NULL);
	check(json && json_equal(json, saved));
	tags_load(&again, json);
	check(again.consistent_epoch == tags->consistent_epoch && again.syncing == tags->syncing &&
	      tags_consistency(&again, last_applied) == tags_consistency(tags, last_applied) &&
	      !again.crash == !tags->crash && !again.app == !tags->app &&
	      json_array_size(again.list) == json_array_size(tags->list));
	tags_clear(&again);
	json_decref(json);
	json_decref(saved);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct tags tags = { 0 };
	const char *why = NULL;
	json_t *json;

	if (bytes < 1)
		return 0;
	json = tags_parse(data + 1, bytes - 1, data[0], &why);
	check(!json == (why != NULL));
	if (json) {
		tags_restart(&tags);
		/* More than are kept. */
		for (uint64_t epoch = 1; epoch < TAGS_MAX + 3; epoch++)
			check(!tags_applied(&tags, epoch, true, false, json));
		check(!tags.syncing && json_array_size(tags.list) == TAGS_MAX);
		same_when_loaded(&tags, TAGS_MAX + 2);
		tags_clear(&tags);
		json_decref(json);
	}
	json = json_loadb((const char *)data + 1, bytes - 1, 0, NULL);
	tags_load(&tags, json);
	same_when_loaded(&tags, 1);
	tags_clear(&tags);
	json_decref(json);
	return 0;
}
