// SPDX-License-Identifier: GPL-2.0-or-later
/* tags: see tags.h. */
#include <errno.h>
#include <string.h>

#include "tags.h"

static bool text_ok(const json_t *json, const char *key, size_t max)
{
	const char *text = json_string_value(json_object_get(json, key));

	return text && *text && strlen(text) <= max;
}

json_t *tags_parse(const void *payload, size_t bytes, uint64_t epoch, const char **why)
{
	json_t *tag = payload ? json_loadb(payload, bytes, 0, NULL) : NULL;
	const char *kind = json_string_value(json_object_get(tag, "kind"));

	*why = NULL;
	if (!json_is_object(tag))
		*why = "its JSON cannot be read";
	else if (!kind || (strcmp(kind, "crash") && strcmp(kind, "app")))
		*why = "its kind is neither crash nor app";
	else if (!text_ok(tag, "name", 256))
		*why = "it has no name";
	else if (!text_ok(tag, "time", 64))
		*why = "it has no time";
	else if (json_integer_value(json_object_get(tag, "epoch")) != (json_int_t)epoch)
		*why = "it names another epoch";
	if (!*why)
		return tag;
	json_decref(tag);
	return NULL;
}

void tags_copy(struct tags *to, const struct tags *from)
{
	*to = *from;
	json_incref(to->crash);
	json_incref(to->app);
	json_incref(to->list);
}

void tags_clear(struct tags *tags)
{
	json_decref(tags->crash);
	json_decref(tags->app);
	json_decref(tags->list);
	memset(tags, 0, sizeof(*tags));
}

void tags_restart(struct tags *tags)
{
	tags_clear(tags);
	tags->syncing = true;
}

/* For the list: what scripts printed is kept for the last tag of its kind only. */
static json_t *brief(const json_t *tag)
{
	json_t *copy = json_deep_copy(tag);
	json_t *script;
	size_t i;

	json_array_foreach(json_object_get(copy, "scripts"), i, script)
		json_object_del(script, "output");
	return copy;
}

/* A new list: @list with @tag behind it, the oldest left out. */
static json_t *listed(const json_t *list, const json_t *tag)
{
	json_t *out = json_array();
	size_t count = json_array_size(list);

	for (size_t i = count >= TAGS_MAX ? count - TAGS_MAX + 1 : 0; out && i < count; i++)
		json_array_append(out, json_array_get(list, i));
	if (json_array_append_new(out, brief(tag))) {
		json_decref(out);
		return NULL;
	}
	return out;
}

int tags_applied(struct tags *tags, uint64_t epoch, bool consistent, bool initial, json_t *tag)
{
	json_t **last, *list;

	if (!consistent) {
		tags->syncing |= initial;
		return 0;
	}
	if (tag) {
		list = listed(tags->list, tag);
		if (!list)
			return -ENOMEM;
		last = strcmp(json_string_value(json_object_get(tag, "kind")), "app") ? &tags->crash :
											&tags->app;
		json_decref(*last);
		*last = json_incref(tag);
		json_decref(tags->list);
		tags->list = list;
	}
	tags->syncing = false;
	tags->consistent_epoch = epoch;
	return 0;
}

const char *tags_consistency(const struct tags *tags, uint64_t last_applied)
{
	if (tags->syncing || !tags->consistent_epoch)
		return "syncing";
	return tags->consistent_epoch == last_applied ? "consistent" : "not-consistent";
}

json_t *tags_save(const struct tags *tags)
{
	return json_pack("{s:b, s:I, s:O?, s:O?, s:O?}", "syncing", tags->syncing, "consistent_epoch",
			 (json_int_t)tags->consistent_epoch, "crash", tags->crash, "app", tags->app, "list",
			 tags->list);
}

static json_t *kept(const json_t *json, const char *key, int type)
{
	json_t *value = json_object_get(json, key);

	return value && (int)json_typeof(value) == type ? json_incref(value) : NULL;
}

void tags_load(struct tags *tags, const json_t *json)
{
	tags_restart(tags);
	if (!json_is_object(json))
		return;
	tags->syncing = !json_is_false(json_object_get(json, "syncing"));
	tags->consistent_epoch = (uint64_t)json_integer_value(json_object_get(json, "consistent_epoch"));
	tags->crash = kept(json, "crash", JSON_OBJECT);
	tags->app = kept(json, "app", JSON_OBJECT);
	tags->list = kept(json, "list", JSON_ARRAY);
}
