// SPDX-License-Identifier: GPL-2.0
/*
 * PATCH, GRANT, RELEASE and the VMM's profile.
 *
 * A little kernel lies in the test memory: text with two jump labels, two static
 * calls, a trampoline and an ftrace site, sealed tables that list them, keys in
 * plain memory. First each change that must be denied, alone and as one of a
 * batch, after which no byte may differ; then the changes that a kernel makes,
 * the pages of its pool, and the profile. heki_patch_race_test changes what runs.
 */
#include "kvm_test_harness.h"
#include "heki.h"

#define NR_VCPUS	2

/* Pages of the test memory. */
#define TEXT		0	/* two pages */
#define TABLES		2
#define KEYS		3
#define OTHER		4	/* sealed, no text */
#define PLAIN		5
#define READ_ONLY_KEYS	6
#define POOL		8	/* two pages, all INT3 */
#define MODULE		10
#define FRESH		16	/* plain memory to grant */

#define VA(page, offset)	(HEKI_PAGE(page) + (offset))

/* In the text. */
#define FLIP		0x000	/* a label with a far target */
#define LABEL_NEAR	0x110
#define LABEL_FROZEN	0x120
#define LABEL_OWN	0x128	/* its key the guest froze itself */
#define LABEL_INIT	0x130
#define LABEL_SET	0x140	/* its key is read-only by now */
#define CALL		0x150
#define TAIL_CALL	0x160
#define ELSEWHERE	0x180	/* where the labels jump to */
#define HANDLER_A	0x200	/* of one type */
#define HANDLER_B	0x240
#define OTHER_TYPE	0x280
#define FTRACE_SITE	0x300
#define FTRACE_CALLER	0x340
#define FTRACE_STUB	0x400
#define TRAMPOLINE	0x440
#define PROBED		0x460	/* loads from the keys */
#define ACROSS		0xffe	/* a label over the end of the first page */
#define TEXT_BYTES	(2 * PAGE_SIZE)

#define LOAD_BYTES	7

#define MODULE_SITE	0x40	/* of ftrace, in the module */

#define KEY_FROZEN	0x40
#define KEY_OWN		0x60
#define KEY_CALL	0x80
#define HASH_DISTANCE	4
#define BUILD_ID_AT	0x800	/* in the page of the tables */
#define MCOUNT_AT	0x900	/* likewise, the module's ftrace sites */
#define PAD_AT		0xa00	/* likewise, what pads hold */
#define PAD_BYTES	9
#define BUILD_ID	"0123456789abcdefghij"

static const u8 nop2[] = { 0x66, 0x90 };
static const u8 nop5[] = { 0x0f, 0x1f, 0x44, 0x00, 0x00 };
static const u8 ret5[] = { 0xc3, 0xcc, 0xcc, 0xcc, 0xcc };
static const u8 int3[] = { 0xcc };

/*
 * The little kernel
 */

static void put(struct heki_vm *h, u64 va, const void *bytes, size_t len)
{
	memcpy(heki_hva(h, va), bytes, len);
}

static void put32(struct heki_vm *h, u64 va, u32 value)
{
	put(h, va, &value, sizeof(value));
}

static void put64(struct heki_vm *h, u64 va, u64 value)
{
	put(h, va, &value, sizeof(value));
}

/* CALL or JMP rel32 at @from. */
static void branch(u8 *insn, u8 opcode, u64 from, u64 to)
{
	s32 distance = to - (from + 5);

	insn[0] = opcode;
	memcpy(insn + 1, &distance, sizeof(distance));
}

static void put_branch(struct heki_vm *h, u8 opcode, u64 from, u64 to)
{
	u8 insn[5];

	branch(insn, opcode, from, to);
	put(h, from, insn, sizeof(insn));
}

/* A function that returns at once, with the hash of its type in front, in a MOV to EAX. */
static void put_function(struct heki_vm *h, u64 va, u32 hash)
{
	put(h, va - HASH_DISTANCE - 1, (u8[]){ 0xb8 }, 1);
	put32(h, va - HASH_DISTANCE, hash);
	put(h, va, ret5, 1);
}

static u64 put_label(struct heki_vm *h, u64 entry, u64 code, u64 target, u64 key, u64 flags)
{
	put32(h, entry, code - entry);
	put32(h, entry + 4, target - (entry + 4));
	put64(h, entry + 8, (key - (entry + 8)) | flags);
	return entry + 16;
}

static u64 put_call(struct heki_vm *h, u64 entry, u64 addr, u64 key, u32 flags)
{
	put32(h, entry, addr - entry);
	put32(h, entry + 4, (key | flags) - (entry + 4));
	return entry + 8;
}

/* MOV from the keys to RAX, as it must be at @va. */
static void load(u8 *insn, u64 va)
{
	s32 distance = VA(KEYS, 0) - (va + LOAD_BYTES);

	memcpy(insn, (u8[]){ 0x48, 0x8b, 0x05 }, 3);
	memcpy(insn + 3, &distance, sizeof(distance));
}

static void put_load(struct heki_vm *h, u64 va)
{
	u8 insn[LOAD_BYTES];

	load(insn, va);
	put(h, va, insn, sizeof(insn));
}

/* SAR of five bits in the keys, by GS, as it must be at @va. */
static void pad(u8 *insn, u64 va)
{
	s32 distance = VA(KEYS, 0x100) - (va + 8);

	memcpy(insn, (u8[]){ 0x65, 0x48, 0xc1, 0x3d, 0, 0, 0, 0, 5 }, PAD_BYTES);
	memcpy(insn + 4, &distance, sizeof(distance));
}

static void put_pad(struct heki_vm *h, u64 va)
{
	u8 insn[PAD_BYTES];

	pad(insn, va);
	put(h, va, insn, sizeof(insn));
}

static void put_text(struct heki_vm *h)
{
	memset(heki_hva(h, VA(TEXT, 0)), 0x90, TEXT_BYTES);
	put(h, VA(TEXT, FLIP), nop5, sizeof(nop5));
	put(h, VA(TEXT, LABEL_NEAR), nop2, sizeof(nop2));
	put(h, VA(TEXT, LABEL_FROZEN), nop5, sizeof(nop5));
	put(h, VA(TEXT, LABEL_OWN), nop5, sizeof(nop5));
	put(h, VA(TEXT, LABEL_INIT), nop5, sizeof(nop5));
	put(h, VA(TEXT, LABEL_SET), nop5, sizeof(nop5));
	put(h, VA(TEXT, ACROSS), nop5, sizeof(nop5));
	put(h, VA(TEXT, FTRACE_SITE), nop5, sizeof(nop5));
	put_function(h, VA(TEXT, HANDLER_A), 0xaaaa0001);
	put_function(h, VA(TEXT, HANDLER_B), 0xaaaa0001);
	put_function(h, VA(TEXT, OTHER_TYPE), 0xbbbb0002);
	put_function(h, VA(TEXT, FTRACE_STUB), 0xcccc0003);
	put_branch(h, 0xe8, VA(TEXT, CALL), VA(TEXT, HANDLER_A));
	put_branch(h, 0xe9, VA(TEXT, TAIL_CALL), VA(TEXT, HANDLER_A));
	put_branch(h, 0xe9, VA(TEXT, TRAMPOLINE), VA(TEXT, HANDLER_A));
	put(h, VA(TEXT, TRAMPOLINE + 5), (u8[]){ 0x0f, 0xb9, 0xcc }, 3);
	put_load(h, VA(TEXT, PROBED));
}

static struct heki_area jump_table, call_sites;

static void put_tables(struct heki_vm *h)
{
	u64 key = VA(KEYS, 0), start = VA(TABLES, 0), at = start;

	at = put_label(h, at, VA(TEXT, FLIP), VA(TEXT, FLIP + 0x20), key, 0);
	at = put_label(h, at, VA(TEXT, LABEL_NEAR), VA(TEXT, ELSEWHERE), key, 1);
	at = put_label(h, at, VA(TEXT, LABEL_FROZEN), VA(TEXT, ELSEWHERE), key + KEY_FROZEN, 0);
	at = put_label(h, at, VA(TEXT, LABEL_OWN), VA(TEXT, ELSEWHERE), key + KEY_OWN, 0);
	at = put_label(h, at, VA(TEXT, LABEL_INIT), VA(TEXT, ELSEWHERE), key, 2);
	at = put_label(h, at, VA(TEXT, LABEL_SET), VA(TEXT, ELSEWHERE), VA(READ_ONLY_KEYS, 0), 0);
	at = put_label(h, at, VA(TEXT, ACROSS), VA(TEXT, ELSEWHERE), key, 0);
	jump_table = (struct heki_area){
		.kind = HEKI_AREA_JUMP_TABLE, .va = start, .len = at - start,
	};

	start = at;
	at = put_call(h, at, VA(TEXT, CALL), key + KEY_CALL, 0);
	at = put_call(h, at, VA(TEXT, TAIL_CALL), key + KEY_CALL, 1);
	call_sites = (struct heki_area){
		.kind = HEKI_AREA_STATIC_CALL_SITES, .va = start, .len = at - start,
	};
	put64(h, key + KEY_CALL, VA(TEXT, HANDLER_A));
	put(h, VA(TABLES, BUILD_ID_AT), BUILD_ID, strlen(BUILD_ID));
	put64(h, VA(TABLES, MCOUNT_AT), VA(MODULE, MODULE_SITE));
	/* Not in a module, and no NOP of ftrace. */
	put64(h, VA(TABLES, MCOUNT_AT + 8), VA(TEXT, LABEL_INIT));
	put64(h, VA(TABLES, MCOUNT_AT + 16), VA(MODULE, MODULE_SITE + 1));
	put_pad(h, VA(TABLES, PAD_AT));
}

/*
 * Requests
 */

static void add_range_at(struct heki_seal *req, u64 page, u64 nr, u32 rights, u32 kind)
{
	heki_add_range(req, HEKI_PAGE(page), nr * PAGE_SIZE, rights, kind);
	heki_ranges(req)[req->nr_ranges - 1].va = HEKI_PAGE(page);
}

static void add_area(struct heki_seal *req, u32 kind, u64 va, u64 len)
{
	heki_areas(req)[req->nr_areas++] = (struct heki_area){
		.kind = kind, .va = va, .len = len,
	};
}

static void add_areas(struct heki_seal *req)
{
	add_area(req, jump_table.kind, jump_table.va, jump_table.len);
	add_area(req, call_sites.kind, call_sites.va, call_sites.len);
	add_area(req, HEKI_AREA_RO_AFTER_INIT, VA(READ_ONLY_KEYS, 0), PAGE_SIZE);
	add_area(req, HEKI_AREA_STATIC_CALL_TEXT, VA(TEXT, TRAMPOLINE), 8);
	add_area(req, HEKI_AREA_FROZEN, VA(KEYS, KEY_OWN), 0);
	add_area(req, HEKI_AREA_FROZEN, VA(KEYS, KEY_OWN + 8), 0);
	add_area(req, HEKI_AREA_CFI_HASH, HASH_DISTANCE, 0);
	add_area(req, HEKI_AREA_FTRACE_CALLER, VA(TEXT, FTRACE_CALLER), 0x40);
	add_area(req, HEKI_AREA_FTRACE_STUB, VA(TEXT, FTRACE_STUB), 0);
	add_area(req, HEKI_AREA_MCOUNT, VA(TABLES, MCOUNT_AT), 24);
	add_area(req, HEKI_AREA_CALL_DEPTH, VA(TABLES, PAD_AT), PAD_BYTES);
}

static struct heki_seal *begin_kernel_request(struct heki_vm *h)
{
	struct heki_seal *req = heki_begin_request(h, 0);

	put_text(h);
	put_tables(h);
	memset(heki_hva(h, VA(POOL, 0)), 0xcc, 2 * PAGE_SIZE);
	memset(heki_hva(h, VA(MODULE, 0)), 0x90, PAGE_SIZE);
	put(h, VA(MODULE, MODULE_SITE), nop5, sizeof(nop5));
	add_range_at(req, TEXT, 2, HEKI_EXEC, HEKI_KIND_TEXT);
	add_range_at(req, TABLES, 1, 0, HEKI_KIND_RODATA);
	add_range_at(req, OTHER, 1, 0, HEKI_KIND_RODATA);
	add_range_at(req, POOL, 2, HEKI_EXEC, HEKI_KIND_POOL);
	add_range_at(req, MODULE, 1, HEKI_EXEC, HEKI_KIND_MODULE_TEXT);
	return req;
}

static void seal_kernel(struct heki_vm *h)
{
	add_areas(begin_kernel_request(h));
	heki_seal(h);
}

struct patch {
	struct heki_patch head;
	struct heki_site site[HEKI_MAX_PATCHES];
};

static struct heki_site site_of(u64 va, const void *old, const void *new, u64 len)
{
	struct heki_site site = { .va = va, .len = len };

	memcpy(site.old, old, len);
	memcpy(site.new, new, len);
	return site;
}

/* A call or jump that takes the place of what stands there now. */
static struct heki_site branch_site(struct heki_vm *h, u8 opcode, u64 va, u64 to)
{
	u8 insn[5];

	branch(insn, opcode, va, to);
	return site_of(va, heki_hva(h, va), insn, sizeof(insn));
}

static s64 send_patch_by(struct heki_vm *h, struct kvm_vcpu *vcpu,
			 const struct heki_site *site, u32 nr)
{
	struct patch *req = (void *)h->request;

	req->head = (struct heki_patch){ .version = HEKI_ABI_VERSION, .nr_sites = nr };
	memcpy(req->site, site, nr * sizeof(*site));
	return heki_hypercall(vcpu, HEKI_OP_PATCH, HEKI_REQUEST_GPA,
			      sizeof(req->head) + nr * sizeof(*site), 0);
}

static s64 send_patch(struct heki_vm *h, const struct heki_site *site, u32 nr)
{
	return send_patch_by(h, h->vcpu[0], site, nr);
}

static bool text_holds(struct heki_vm *h, const struct heki_site *site, bool new)
{
	return !memcmp(heki_hva(h, site->va), new ? site->new : site->old, site->len);
}

static s64 send_grant(struct heki_vm *h, u32 op, const struct heki_range *range, u32 nr)
{
	struct {
		struct heki_grant head;
		struct heki_range range[];
	} *req = (void *)h->request;

	req->head = (struct heki_grant){ .version = HEKI_ABI_VERSION, .nr_ranges = nr };
	memcpy(req->range, range, nr * sizeof(*range));
	return heki_hypercall(h->vcpu[0], op, HEKI_REQUEST_GPA,
			      sizeof(req->head) + nr * sizeof(*range), 0);
}

static s64 change_pages(struct heki_vm *h, u32 op, u64 page, u64 nr)
{
	struct heki_range range = {
		.gpa = HEKI_PAGE(page),
		.len = nr * PAGE_SIZE,
		.va = HEKI_PAGE(page),
		.rights = op == HEKI_OP_GRANT ? HEKI_EXEC : 0,
		.kind = HEKI_KIND_POOL,
	};

	return send_grant(h, op, &range, 1);
}

/*
 * The fixture: a sealed kernel, with the VMM's profile or without
 */

FIXTURE(patch) {
	struct heki_vm h;
};

FIXTURE_VARIANT(patch) {
	bool profile;
};

FIXTURE_VARIANT_ADD(patch, bare) { .profile = false };
FIXTURE_VARIANT_ADD(patch, profiled) { .profile = true };

struct profile {
	struct heki_profile head;
	u32 entry[7];
};

static struct profile good_profile(void)
{
	return (struct profile){
		.head = {
			.version = HEKI_ABI_VERSION,
			.nr_functions = 4,
			.nr_calls = 1,
			.nr_frozen = 1,
			.nr_probes = 1,
			.base = VA(TEXT, 0),
			.text_len = TEXT_BYTES,
			.build_id_offset = VA(TABLES, BUILD_ID_AT) - VA(TEXT, 0),
			.build_id_len = strlen(BUILD_ID),
			.build_id = BUILD_ID,
		},
		.entry = { HANDLER_A, HANDLER_B, OTHER_TYPE, FTRACE_STUB, FTRACE_SITE,
			   VA(KEYS, KEY_FROZEN) - VA(TEXT, 0), PROBED },
	};
}

/* Zero or the error. */
static int set_profile(struct heki_vm *h, const struct profile *profile)
{
	return __kvm_device_attr_set(h->device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_PROFILE,
				     (void *)profile) ? errno : 0;
}

static void create_with_profile(struct heki_vm *h, const struct profile *profile, int error)
{
	u32 id;

	*h = (struct heki_vm){ .device = -1 };
	h->vm = __vm_create(VM_SHAPE_DEFAULT, NR_VCPUS, HEKI_TEST_PAGES);
	heki_add_memory(h, VM_MEM_SRC_ANONYMOUS);
	h->device = kvm_create_device(h->vm, KVM_DEV_TYPE_HEKI);
	if (profile)
		TEST_ASSERT(set_profile(h, profile) == error, "The profile gave error %d", errno);
	for (id = 0; id < NR_VCPUS; id++)
		heki_add_vcpu(h, id, 0);
}

FIXTURE_SETUP(patch)
{
	struct profile profile = good_profile();

	create_with_profile(&self->h, variant->profile ? &profile : NULL, 0);
	seal_kernel(&self->h);
}

FIXTURE_TEARDOWN(patch)
{
	heki_vm_free(&self->h);
}

/*
 * What is denied
 */

/* As the last of a full batch of good changes, which must not happen either. */
static bool is_denied_in_batch(struct heki_vm *h, const struct heki_site *bad)
{
	struct heki_site good = site_of(VA(TEXT, LABEL_NEAR), nop2, nop2, 2);
	struct heki_site batch[2];
	u8 jump[] = { 0xeb, ELSEWHERE - LABEL_NEAR - 2 };
	int first = bad->va < good.va;

	memcpy(good.new, jump, sizeof(jump));
	batch[first] = good;
	batch[!first] = *bad;
	return send_patch(h, batch, 2) == -KVM_EPERM && text_holds(h, &good, false);
}

/* Alone and beside a good one; counted once each; no byte differs. */
static bool is_denied(struct heki_vm *h, const struct heki_site *site)
{
	u64 denied = vcpu_get_stat(h->vcpu[0], heki_denied_patch);
	u64 patched = vcpu_get_stat(h->vcpu[0], heki_patched);
	u8 before[TEXT_BYTES], *text = heki_hva(h, VA(TEXT, 0));
	s64 ret;

	memcpy(before, text, sizeof(before));
	ret = send_patch(h, site, 1);
	if (ret != -KVM_EPERM) {
		ksft_print_msg("%#lx: wanted %d, got %ld\n", (long)site->va, -KVM_EPERM, ret);
		return false;
	}
	return is_denied_in_batch(h, site) && !memcmp(before, text, sizeof(before)) &&
	       vcpu_get_stat(h->vcpu[0], heki_denied_patch) == denied + 2 &&
	       vcpu_get_stat(h->vcpu[0], heki_patched) == patched;
}

HEKI_TEST(patch, an_unlisted_site_is_denied)
{
	struct heki_vm *h = &self->h;
	struct heki_site site = branch_site(h, 0xe8, VA(TEXT, ELSEWHERE), VA(TEXT, HANDLER_A));

	EXPECT_TRUE(is_denied(h, &site));
	site = branch_site(h, 0xe9, VA(TEXT, LABEL_INIT), VA(TEXT, ELSEWHERE));
	EXPECT_TRUE(is_denied(h, &site));
	site = branch_site(h, 0xe9, VA(TEXT, LABEL_SET), VA(TEXT, ELSEWHERE));
	EXPECT_TRUE(is_denied(h, &site));
}

HEKI_TEST(patch, what_is_no_text_is_denied)
{
	static const u64 pages[] = { TABLES, OTHER, KEYS, PLAIN, POOL, HEKI_TEST_PAGES + 1 };
	struct heki_vm *h = &self->h;
	int i;

	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		struct heki_site site = site_of(VA(pages[i], 0x100), nop5, nop5, 5);

		branch(site.new, 0xe9, site.va, VA(TEXT, ELSEWHERE));
		EXPECT_TRUE(is_denied(h, &site));
	}
}

HEKI_TEST(patch, a_foreign_target_is_denied)
{
	struct heki_vm *h = &self->h;
	struct heki_site site = branch_site(h, 0xe9, VA(TEXT, FLIP), VA(TEXT, HANDLER_A));

	EXPECT_TRUE(is_denied(h, &site));
	site = branch_site(h, 0xe9, VA(TEXT, FLIP), VA(PLAIN, 0));
	EXPECT_TRUE(is_denied(h, &site));
	site = branch_site(h, 0xe8, VA(TEXT, CALL), VA(TEXT, OTHER_TYPE));
	EXPECT_TRUE(is_denied(h, &site));
	site = branch_site(h, 0xe8, VA(TEXT, CALL), VA(TEXT, HANDLER_B + 1));
	EXPECT_TRUE(is_denied(h, &site));
	site = branch_site(h, 0xe8, VA(TEXT, CALL), VA(PLAIN, 0));
	EXPECT_TRUE(is_denied(h, &site));
	site = branch_site(h, 0xe9, VA(TEXT, TAIL_CALL), VA(TEXT, OTHER_TYPE));
	EXPECT_TRUE(is_denied(h, &site));
}

/* A byte pattern in front of it makes no function of a gadget, if the VMM knows better. */
HEKI_TEST(patch, a_forged_hash_is_no_function)
{
	struct heki_vm *h = &self->h;
	struct heki_site site;

	if (!variant->profile)
		SKIP(return, "no list of functions without a profile");
	EXPECT_EQ(0, __kvm_device_attr_set(h->device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RESET, NULL));
	add_areas(begin_kernel_request(h));
	put_function(h, VA(TEXT, 0x2c0), 0xaaaa0001);
	heki_seal(h);
	site = branch_site(h, 0xe8, VA(TEXT, CALL), VA(TEXT, 0x2c0));
	EXPECT_TRUE(is_denied(h, &site));
}

HEKI_TEST(patch, other_instructions_are_denied)
{
	static const u8 trap[] = { 0xcc, 0x1f, 0x44, 0x00, 0x00 };
	struct heki_vm *h = &self->h;
	struct heki_site site = site_of(VA(TEXT, FLIP), nop5, trap, 5);

	EXPECT_TRUE(is_denied(h, &site));
	site = site_of(VA(TEXT, FLIP), nop5, int3, 1);
	EXPECT_TRUE(is_denied(h, &site));
	site = site_of(VA(TEXT, FLIP), nop5, nop2, 2);
	EXPECT_TRUE(is_denied(h, &site));
	site = site_of(VA(TEXT, FLIP), nop5, ret5, 5);
	EXPECT_TRUE(is_denied(h, &site));
	site = branch_site(h, 0xe8, VA(TEXT, FLIP), VA(TEXT, FLIP + 0x20));
	EXPECT_TRUE(is_denied(h, &site));
	site = branch_site(h, 0xe9, VA(TEXT, CALL), VA(TEXT, HANDLER_B));
	EXPECT_TRUE(is_denied(h, &site));
	site = branch_site(h, 0xe8, VA(TEXT, TAIL_CALL), VA(TEXT, HANDLER_B));
	EXPECT_TRUE(is_denied(h, &site));
}

HEKI_TEST(patch, shifted_and_truncated_instructions_are_denied)
{
	struct heki_vm *h = &self->h;
	struct heki_site good = branch_site(h, 0xe9, VA(TEXT, FLIP), VA(TEXT, FLIP + 0x20));
	struct heki_site site;
	int len;

	for (len = 1; len <= 6; len++) {
		if (len == 5)
			continue;
		site = good;
		site.len = len;
		memset(site.old, 0, sizeof(site.old));
		memcpy(site.old, heki_hva(h, site.va), len);
		EXPECT_TRUE(is_denied(h, &site));
	}
	site = branch_site(h, 0xe9, VA(TEXT, FLIP + 1), VA(TEXT, FLIP + 0x20));
	EXPECT_TRUE(is_denied(h, &site));
	site = site_of(VA(TEXT, FLIP + 1), nop5 + 1, good.new + 1, 4);
	EXPECT_TRUE(is_denied(h, &site));
	site = site_of(VA(TEXT, TEXT_BYTES - 2), nop5, nop5, 5);
	EXPECT_TRUE(is_denied(h, &site));
	site = site_of(-3ull, nop5, nop5, 5);
	EXPECT_TRUE(is_denied(h, &site));
}

HEKI_TEST(patch, other_old_bytes_and_replay_are_denied)
{
	struct heki_vm *h = &self->h;
	struct heki_site on = branch_site(h, 0xe9, VA(TEXT, FLIP), VA(TEXT, FLIP + 0x20));
	struct heki_site off = site_of(on.va, on.new, on.old, 5);

	EXPECT_TRUE(is_denied(h, &off));
	EXPECT_EQ(0, send_patch(h, &on, 1));
	EXPECT_TRUE(is_denied(h, &on));
	EXPECT_EQ(0, send_patch(h, &off, 1));
}

HEKI_TEST(patch, a_frozen_key_is_denied)
{
	struct heki_vm *h = &self->h;
	struct heki_site site = branch_site(h, 0xe9, VA(TEXT, LABEL_FROZEN), VA(TEXT, ELSEWHERE));

	if (variant->profile) {
		EXPECT_TRUE(is_denied(h, &site));
	} else {
		EXPECT_EQ(0, send_patch(h, &site, 1));
	}
}

HEKI_TEST(patch, a_key_that_the_guest_froze_is_denied)
{
	struct heki_vm *h = &self->h;
	struct heki_site site = branch_site(h, 0xe9, VA(TEXT, LABEL_OWN), VA(TEXT, ELSEWHERE));

	EXPECT_TRUE(is_denied(h, &site));
}

/* Asks for what is frozen, from entry @first on; returns the error. */
static s64 ask_frozen(struct heki_vm *h, u32 version, u32 first, u64 len)
{
	struct heki_frozen *frozen = (void *)h->request;

	memset(frozen, 0xff, sizeof(*frozen));
	frozen->version = version;
	frozen->first = first;
	return heki_hypercall(h->vcpu[0], HEKI_OP_FROZEN, HEKI_REQUEST_GPA, len, 0);
}

HEKI_TEST(patch, the_guest_learns_what_the_vmm_froze)
{
	const u64 len = sizeof(struct heki_frozen);
	struct heki_vm *h = &self->h;
	struct heki_frozen *frozen = (void *)h->request;

	EXPECT_EQ(-KVM_EINVAL, ask_frozen(h, HEKI_ABI_VERSION + 1, 0, len));
	EXPECT_EQ(-KVM_EINVAL, ask_frozen(h, HEKI_ABI_VERSION, 0, len - 1));
	EXPECT_EQ(0, ask_frozen(h, HEKI_ABI_VERSION, 0, len));
	EXPECT_EQ(variant->profile, frozen->nr);
	EXPECT_EQ(variant->profile, frozen->total);
	EXPECT_EQ(variant->profile ? VA(KEYS, KEY_FROZEN) : 0, frozen->va[0]);
	EXPECT_EQ(0, frozen->va[HEKI_FROZEN_ENTRIES - 1]);
	EXPECT_EQ(0, ask_frozen(h, HEKI_ABI_VERSION, ~0u, len));
	EXPECT_EQ(0, frozen->nr);
	EXPECT_EQ(variant->profile, frozen->total);
}

HEKI_TEST(patch, ftrace_takes_a_profile)
{
	struct heki_vm *h = &self->h;
	struct heki_site on = branch_site(h, 0xe8, VA(TEXT, FTRACE_SITE), VA(TEXT, FTRACE_CALLER));
	struct heki_site bad = branch_site(h, 0xe8, VA(TEXT, FTRACE_SITE), VA(TEXT, HANDLER_A));
	struct heki_site off = site_of(on.va, on.new, on.old, 5);

	EXPECT_TRUE(is_denied(h, &bad));
	if (!variant->profile) {
		EXPECT_TRUE(is_denied(h, &on));
		return;
	}
	EXPECT_EQ(0, send_patch(h, &on, 1));
	EXPECT_EQ(0, send_patch(h, &off, 1));
}

HEKI_TEST(patch, ftrace_sites_of_modules)
{
	struct heki_vm *h = &self->h;
	u64 va = VA(MODULE, MODULE_SITE);
	struct heki_site on = branch_site(h, 0xe8, va, VA(TEXT, FTRACE_CALLER));
	struct heki_site bad = branch_site(h, 0xe8, va, VA(TEXT, HANDLER_A));
	struct heki_site off = site_of(on.va, on.new, on.old, 5);
	struct heki_site foreign = branch_site(h, 0xe8, VA(TEXT, LABEL_INIT), VA(TEXT, FTRACE_CALLER));

	EXPECT_TRUE(is_denied(h, &bad));
	EXPECT_TRUE(is_denied(h, &foreign));
	if (!variant->profile) {
		EXPECT_TRUE(is_denied(h, &on));
		return;
	}
	EXPECT_EQ(0, send_patch(h, &on, 1));
	EXPECT_TRUE(text_holds(h, &on, true));
	EXPECT_EQ(0, send_patch(h, &off, 1));
}

HEKI_TEST(patch, pads_track_the_depth_of_calls)
{
	static const u8 nops[PAD_BYTES] = { [0 ... PAD_BYTES - 1] = 0x90 };
	struct heki_vm *h = &self->h;
	u64 to = VA(TEXT, HANDLER_B) - PAD_BYTES;
	struct heki_site call = branch_site(h, 0xe8, VA(TEXT, CALL), to);
	struct heki_site site;
	u8 insn[PAD_BYTES];

	/* Of NOPs, and then with the hash of the type, which it would overwrite. */
	EXPECT_TRUE(is_denied(h, &call));
	pad(insn, to);
	site = site_of(to, nops, insn, PAD_BYTES);
	EXPECT_TRUE(is_denied(h, &site));
	/* In front of no function. */
	pad(insn, VA(TEXT, ELSEWHERE));
	site = site_of(VA(TEXT, ELSEWHERE), nops, insn, PAD_BYTES);
	EXPECT_TRUE(is_denied(h, &site));
}

HEKI_TEST(patch, breakpoints_take_a_list)
{
	struct heki_vm *h = &self->h;
	u64 va = VA(TEXT, PROBED);
	const u8 *was = heki_hva(h, va);
	struct heki_site on = site_of(va, was, int3, 1);
	struct heki_site off = site_of(va, int3, was, 1);
	struct heki_site ask = site_of(va, was, was, 1);
	struct heki_site bad = site_of(va, int3, ret5, 1);
	struct heki_site inside = site_of(va + 3, was + 3, int3, 1);
	struct heki_site elsewhere = site_of(VA(TEXT, HANDLER_A), ret5, int3, 1);

	EXPECT_TRUE(is_denied(h, &inside));
	EXPECT_TRUE(is_denied(h, &elsewhere));
	if (!variant->profile) {
		EXPECT_TRUE(is_denied(h, &on));
		EXPECT_TRUE(is_denied(h, &ask));
		return;
	}
	EXPECT_EQ(0, send_patch(h, &ask, 1));
	EXPECT_TRUE(is_denied(h, &off));		/* none is there */
	EXPECT_EQ(0, send_patch(h, &on, 1));
	EXPECT_TRUE(text_holds(h, &on, true));
	EXPECT_TRUE(is_denied(h, &bad));
	EXPECT_EQ(0, send_patch(h, &off, 1));
	EXPECT_TRUE(text_holds(h, &on, false));
	EXPECT_EQ(0, send_patch(h, &on, 1));
}

/* What a slot of the pool gets: the load, then a jump to @next or INT3. */
static struct heki_site slot_site(struct heki_vm *h, u64 va, u64 next)
{
	u8 slot[HEKI_SLOT_BYTES];

	memset(slot, 0xcc, sizeof(slot));
	load(slot, va);
	if (next)
		branch(slot + LOAD_BYTES, 0xe9, va + LOAD_BYTES, next);
	return site_of(va, heki_hva(h, va), slot, sizeof(slot));
}

HEKI_TEST(patch, slots_hold_copies)
{
	struct heki_vm *h = &self->h;
	u64 va = VA(POOL, 3 * HEKI_SLOT_BYTES);
	struct heki_site site = slot_site(h, va, 0);
	struct heki_site shifted = slot_site(h, va + 1, 0);
	struct heki_site in_text = slot_site(h, VA(TEXT, 3 * HEKI_SLOT_BYTES), 0);

	EXPECT_TRUE(is_denied(h, &shifted));
	EXPECT_TRUE(is_denied(h, &in_text));
	if (!variant->profile) {
		EXPECT_TRUE(is_denied(h, &site));
		return;
	}
	site.new[HEKI_SLOT_BYTES - 1] = 0x90;
	EXPECT_TRUE(is_denied(h, &site));
	site = slot_site(h, va, VA(TEXT, HANDLER_A));
	EXPECT_TRUE(is_denied(h, &site));
	site = slot_site(h, va, 0);
	site.new[3]++;					/* another address to load from */
	EXPECT_TRUE(is_denied(h, &site));

	site = slot_site(h, va, 0);
	EXPECT_EQ(0, send_patch(h, &site, 1));
	EXPECT_TRUE(text_holds(h, &site, true));
	site = slot_site(h, va, VA(TEXT, PROBED + LOAD_BYTES));
	EXPECT_EQ(0, send_patch(h, &site, 1));
	EXPECT_TRUE(text_holds(h, &site, true));
	/* The page is empty no more, so it is not granted again as it is. */
	EXPECT_EQ(0, change_pages(h, HEKI_OP_RELEASE, POOL, 1));
	EXPECT_EQ(-KVM_EPERM, change_pages(h, HEKI_OP_GRANT, POOL, 1));
}

HEKI_TEST(patch, bad_requests_are_refused)
{
	struct heki_vm *h = &self->h;
	struct heki_site site = branch_site(h, 0xe9, VA(TEXT, FLIP), VA(TEXT, FLIP + 0x20));
	struct heki_site twice[] = { site, site };
	struct patch *req = (void *)h->request;
	u64 len = sizeof(req->head) + sizeof(site);

	EXPECT_EQ(-KVM_EINVAL, send_patch(h, twice, 2));
	EXPECT_EQ(-KVM_EINVAL, send_patch(h, &site, 0));
	send_patch(h, &site, 0);
	req->site[0] = site;
	req->head.nr_sites = 1;
	EXPECT_EQ(-KVM_EINVAL, heki_hypercall(h->vcpu[0], HEKI_OP_PATCH, HEKI_REQUEST_GPA, len - 1, 0));
	EXPECT_EQ(-KVM_EINVAL, heki_hypercall(h->vcpu[0], HEKI_OP_PATCH, HEKI_REQUEST_GPA, len + 1, 0));
	EXPECT_EQ(-KVM_EINVAL, heki_hypercall(h->vcpu[0], HEKI_OP_PATCH, HEKI_REQUEST_GPA, len, 1));
	EXPECT_EQ(-KVM_EFAULT, heki_hypercall(h->vcpu[0], HEKI_OP_PATCH, HEKI_HOLE_GPA, len, 0));
	EXPECT_EQ(-KVM_E2BIG, heki_hypercall(h->vcpu[0], HEKI_OP_PATCH, HEKI_REQUEST_GPA, ~0ull, 0));
	req->head.version--;
	EXPECT_EQ(-KVM_EINVAL, heki_hypercall(h->vcpu[0], HEKI_OP_PATCH, HEKI_REQUEST_GPA, len, 0));
	req->head.version++;
	req->head.nr_sites = HEKI_MAX_PATCHES + 1;
	EXPECT_EQ(-KVM_E2BIG, heki_hypercall(h->vcpu[0], HEKI_OP_PATCH, HEKI_REQUEST_GPA, len, 0));
	EXPECT_TRUE(text_holds(h, &site, false));
	/* The request was never the reason. */
	EXPECT_EQ(0, send_patch(h, &site, 1));
}

/*
 * Text that the VMM itself cannot write
 */

#define SECOND_SLOT	12

static void set_slot(struct heki_vm *h, u32 slot, u32 flags, u64 page, u64 nr)
{
	void *hva = heki_hva(h, HEKI_PAGE(page));

	/* KVM takes no other size or flags for a slot that is there. */
	__vm_set_user_memory_region(h->vm, slot, 0, HEKI_PAGE(page), 0, NULL);
	vm_set_user_memory_region(h->vm, slot, flags, HEKI_PAGE(page), nr * PAGE_SIZE, hva);
}

/* Refused, not denied, and no byte of it differs. */
static bool is_refused(struct heki_vm *h, const struct heki_site *site, u32 nr)
{
	u64 refused = vcpu_get_stat(h->vcpu[0], heki_refused);
	u8 before[TEXT_BYTES], *text = heki_hva(h, VA(TEXT, 0));

	memcpy(before, text, sizeof(before));
	return send_patch(h, site, nr) == -KVM_EFAULT &&
	       !memcmp(before, text, sizeof(before)) &&
	       vcpu_get_stat(h->vcpu[0], heki_refused) == refused + 1 &&
	       !vcpu_get_stat(h->vcpu[0], heki_denied_patch) &&
	       !vcpu_get_stat(h->vcpu[0], heki_patched);
}

HEKI_TEST(patch, a_read_only_slot_is_not_written)
{
	struct heki_vm *h = &self->h;
	struct heki_site site = branch_site(h, 0xe9, VA(TEXT, FLIP), VA(TEXT, FLIP + 0x20));

	set_slot(h, HEKI_TEST_SLOT, KVM_MEM_READONLY, 0, HEKI_TEST_PAGES);
	EXPECT_TRUE(is_refused(h, &site, 1));
	set_slot(h, HEKI_TEST_SLOT, 0, 0, HEKI_TEST_PAGES);
	EXPECT_EQ(0, send_patch(h, &site, 1));
	EXPECT_TRUE(text_holds(h, &site, true));
}

/* The first instruction, and the first half of the second, lie where it could. */
HEKI_TEST(patch, a_slot_that_ends_in_an_instruction_is_not_written)
{
	struct heki_vm *h = &self->h;
	struct heki_site site[] = {
		branch_site(h, 0xe9, VA(TEXT, FLIP), VA(TEXT, FLIP + 0x20)),
		branch_site(h, 0xe9, VA(TEXT, ACROSS), VA(TEXT, ELSEWHERE)),
	};

	set_slot(h, HEKI_TEST_SLOT, 0, 0, 1);
	/* Nothing is there. */
	EXPECT_TRUE(is_refused(h, site, ARRAY_SIZE(site)));
	set_slot(h, SECOND_SLOT, KVM_MEM_READONLY, 1, HEKI_TEST_PAGES - 1);
	EXPECT_TRUE(is_refused(h, site, ARRAY_SIZE(site)));
	set_slot(h, SECOND_SLOT, 0, 1, HEKI_TEST_PAGES - 1);
	EXPECT_EQ(0, send_patch(h, site, ARRAY_SIZE(site)));
	EXPECT_TRUE(text_holds(h, &site[0], true));
	EXPECT_TRUE(text_holds(h, &site[1], true));
}

/* The slot can be written, its memory cannot. */
HEKI_TEST(patch, a_read_only_mapping_is_not_written)
{
	struct heki_vm *h = &self->h;
	struct heki_site site = branch_site(h, 0xe9, VA(TEXT, FLIP), VA(TEXT, FLIP + 0x20));
	void *text = heki_hva(h, VA(TEXT, 0));

	ASSERT_EQ(0, mprotect(text, PAGE_SIZE, PROT_READ));
	EXPECT_TRUE(is_refused(h, &site, 1));
	ASSERT_EQ(0, mprotect(text, PAGE_SIZE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, send_patch(h, &site, 1));
	EXPECT_TRUE(text_holds(h, &site, true));
}

TEST(an_open_vm_changes_its_text_itself)
{
	struct heki_site site;
	struct heki_vm h;

	heki_vm_create(&h, 1);
	put_text(&h);
	site = branch_site(&h, 0xe9, VA(TEXT, FLIP), VA(TEXT, FLIP + 0x20));
	EXPECT_EQ(-KVM_EPERM, send_patch(&h, &site, 1));
	EXPECT_EQ(-KVM_EPERM, change_pages(&h, HEKI_OP_GRANT, FRESH, 1));
	EXPECT_EQ(-KVM_EPERM, change_pages(&h, HEKI_OP_RELEASE, FRESH, 1));
	EXPECT_TRUE(text_holds(&h, &site, false));
	heki_vm_free(&h);
}

/*
 * What a kernel does
 */

HEKI_TEST(patch, labels_go_on_and_off)
{
	struct heki_vm *h = &self->h;
	u8 jump[] = { 0xeb, ELSEWHERE - LABEL_NEAR - 2 };
	struct heki_site site[] = {
		branch_site(h, 0xe9, VA(TEXT, FLIP), VA(TEXT, FLIP + 0x20)),
		site_of(VA(TEXT, LABEL_NEAR), nop2, jump, 2),
		branch_site(h, 0xe9, VA(TEXT, ACROSS), VA(TEXT, ELSEWHERE)),
	};
	int i;

	EXPECT_EQ(0, send_patch(h, site, ARRAY_SIZE(site)));
	EXPECT_EQ(ARRAY_SIZE(site), vcpu_get_stat(h->vcpu[0], heki_patched));
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[0], heki_patch));
	for (i = 0; i < ARRAY_SIZE(site); i++) {
		EXPECT_TRUE(text_holds(h, &site[i], true));
		site[i] = site_of(site[i].va, site[i].new, site[i].old, site[i].len);
	}
	EXPECT_EQ(0, send_patch_by(h, h->vcpu[1], site, ARRAY_SIZE(site)));
	for (i = 0; i < ARRAY_SIZE(site); i++)
		EXPECT_TRUE(text_holds(h, &site[i], true));
	EXPECT_EQ(0, vcpu_get_stat(h->vcpu[0], heki_denied_patch));
}

HEKI_TEST(patch, static_calls_take_functions_of_their_type)
{
	struct heki_vm *h = &self->h;
	static const u64 places[] = { CALL, TAIL_CALL, TRAMPOLINE };
	int i;

	for (i = 0; i < ARRAY_SIZE(places); i++) {
		u64 va = VA(TEXT, places[i]);
		u8 opcode = places[i] == CALL ? 0xe8 : 0xe9;
		struct heki_site site = branch_site(h, opcode, va, VA(TEXT, HANDLER_B));

		EXPECT_EQ(0, send_patch(h, &site, 1));
		EXPECT_TRUE(text_holds(h, &site, true));
		site = site_of(va, heki_hva(h, va), places[i] == CALL ? nop5 : ret5, 5);
		EXPECT_EQ(0, send_patch(h, &site, 1));
		site = branch_site(h, opcode, va, VA(TEXT, HANDLER_A));
		EXPECT_EQ(0, send_patch(h, &site, 1));
	}
}

/* The guest itself still writes none of it. */
HEKI_TEST(patch, text_stays_sealed)
{
	struct heki_vm *h = &self->h;
	struct heki_site site = branch_site(h, 0xe9, VA(TEXT, FLIP), VA(TEXT, FLIP + 0x20));

	EXPECT_EQ(0, send_patch(h, &site, 1));
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_write, VA(TEXT, FLIP), HEKI_ATTACK));
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[1], guest_write, VA(TEXT, FLIP), HEKI_ATTACK));
	EXPECT_TRUE(text_holds(h, &site, true));
}

/* The change is seen by who logs dirty pages. */
HEKI_TEST(patch, a_change_is_dirty)
{
	struct heki_vm *h = &self->h;
	struct heki_site site = branch_site(h, 0xe9, VA(TEXT, ACROSS), VA(TEXT, ELSEWHERE));
	unsigned long bitmap[HEKI_TEST_PAGES / BITS_PER_LONG] = { };

	vm_mem_region_set_flags(h->vm, HEKI_TEST_SLOT, KVM_MEM_LOG_DIRTY_PAGES);
	EXPECT_EQ(0, send_patch(h, &site, 1));
	kvm_vm_get_dirty_log(h->vm, HEKI_TEST_SLOT, bitmap);
	EXPECT_EQ(3, bitmap[0] & 3);
}

/*
 * A ring of dirty pages, which has no room for all that a change may write
 */

#define RING_TEXT	64	/* a page of text for each label */
#define RING_MAX	32	/* pages in one change */
#define RING_LABELS	(RING_MAX + 1)
#define RING_BYTES	65536

FIXTURE(ring) {
	struct heki_vm h;
};

FIXTURE_SETUP(ring)
{
	struct heki_vm *h = &self->h;

	if (!kvm_has_cap(KVM_CAP_DIRTY_LOG_RING_ACQ_REL))
		SKIP(return, "KVM has no ring of dirty pages");
	*h = (struct heki_vm){ .device = -1 };
	h->vm = __vm_create(VM_SHAPE_DEFAULT, 1, HEKI_TEST_PAGES);
	vm_enable_dirty_ring(h->vm, RING_BYTES);
	heki_add_memory(h, VM_MEM_SRC_ANONYMOUS);
	h->device = kvm_create_device(h->vm, KVM_DEV_TYPE_HEKI);
	heki_add_vcpu(h, 0, 0);
	vm_mem_region_set_flags(h->vm, HEKI_TEST_SLOT, KVM_MEM_LOG_DIRTY_PAGES);
}

FIXTURE_TEARDOWN(ring)
{
	if (self->h.vm)
		heki_vm_free(&self->h);
}

HEKI_TEST(ring, is_not_overrun)
{
	struct heki_site site[RING_LABELS];
	struct heki_vm *h = &self->h;
	u64 entry = VA(TABLES, 0);
	struct heki_seal *req;
	int i;

	for (i = 0; i < RING_LABELS; i++) {
		memset(heki_hva(h, VA(RING_TEXT + i, 0)), 0x90, PAGE_SIZE);
		put(h, VA(RING_TEXT + i, FLIP), nop5, sizeof(nop5));
		entry = put_label(h, entry, VA(RING_TEXT + i, FLIP), VA(RING_TEXT + i, ELSEWHERE),
				  VA(KEYS, 0), 0);
		site[i] = branch_site(h, 0xe9, VA(RING_TEXT + i, FLIP), VA(RING_TEXT + i, ELSEWHERE));
	}
	req = heki_begin_request(h, 0);
	add_range_at(req, RING_TEXT, RING_LABELS, HEKI_EXEC, HEKI_KIND_TEXT);
	add_range_at(req, TABLES, 1, 0, HEKI_KIND_RODATA);
	add_area(req, HEKI_AREA_JUMP_TABLE, VA(TABLES, 0), RING_LABELS * 16);
	heki_seal(h);

	EXPECT_EQ(-KVM_E2BIG, send_patch(h, site, RING_LABELS));
	for (i = 0; i < RING_LABELS; i++)
		EXPECT_TRUE(text_holds(h, &site[i], false));
	EXPECT_EQ(0, send_patch(h, site, RING_MAX));
	for (i = 0; i < RING_MAX; i++)
		EXPECT_TRUE(text_holds(h, &site[i], true));
}

/*
 * Pages of the pool
 */

static bool is_all(struct heki_vm *h, u64 page, u8 byte)
{
	u8 *at = heki_hva(h, HEKI_PAGE(page));

	return *at == byte && !memcmp(at, at + 1, PAGE_SIZE - 1);
}

HEKI_TEST(patch, pool_pages_come_and_go)
{
	struct heki_vm *h = &self->h;

	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[1], guest_write, VA(POOL, 0), HEKI_ATTACK));
	EXPECT_EQ(0, change_pages(h, HEKI_OP_RELEASE, POOL, 1));
	EXPECT_EQ(0, heki_call(h->vcpu[1], guest_write, VA(POOL, 0), HEKI_ATTACK));
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[1], guest_write, VA(POOL + 1, 0), HEKI_ATTACK));
	/* Again, and what was never granted: nothing to do. */
	EXPECT_EQ(0, change_pages(h, HEKI_OP_RELEASE, POOL, 1));
	EXPECT_EQ(0, change_pages(h, HEKI_OP_RELEASE, FRESH, 2));

	/* Foreign content stays writable and counts as denied. */
	EXPECT_EQ(-KVM_EPERM, change_pages(h, HEKI_OP_GRANT, POOL, 1));
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[0], heki_denied_patch));
	EXPECT_EQ(0, heki_call(h->vcpu[1], guest_write, VA(POOL, 0), HEKI_ATTACK));

	memset(heki_hva(h, VA(POOL, 0)), 0xcc, PAGE_SIZE);
	EXPECT_EQ(0, change_pages(h, HEKI_OP_GRANT, POOL, 1));
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_write, VA(POOL, 8), HEKI_ATTACK));
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[1], guest_write, VA(POOL, 8), HEKI_ATTACK));
	EXPECT_TRUE(is_all(h, POOL, 0xcc));
}

/* One bad page, and none of the request is granted. */
HEKI_TEST(patch, a_grant_is_whole_or_not_at_all)
{
	struct heki_vm *h = &self->h;

	memset(heki_hva(h, VA(FRESH, 0)), 0xcc, 4 * PAGE_SIZE);
	heki_poke(h, VA(FRESH + 3, PAGE_SIZE - 8), HEKI_CALM);
	EXPECT_EQ(-KVM_EPERM, change_pages(h, HEKI_OP_GRANT, FRESH, 4));
	EXPECT_EQ(0, heki_call(h->vcpu[1], guest_write, VA(FRESH, 0), HEKI_ATTACK));
	EXPECT_EQ(0, heki_call(h->vcpu[1], guest_write, VA(FRESH + 3, 0), HEKI_ATTACK));
}

HEKI_TEST(patch, what_is_sealed_is_not_released)
{
	static const u64 pages[] = { TEXT, TEXT + 1, TABLES, OTHER };
	struct heki_vm *h = &self->h;
	int i;

	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		EXPECT_EQ(-KVM_EPERM, change_pages(h, HEKI_OP_RELEASE, pages[i], 1));
		EXPECT_EQ(-KVM_EPERM, change_pages(h, HEKI_OP_GRANT, pages[i], 1));
		EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_write, VA(pages[i], 0), HEKI_ATTACK));
	}
	/* Nor when most of the range is plain memory. */
	EXPECT_EQ(-KVM_EPERM, change_pages(h, HEKI_OP_RELEASE, OTHER, 4));
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_write, VA(OTHER, 0), HEKI_ATTACK));
}

HEKI_TEST(patch, bad_grants_are_refused)
{
	struct heki_vm *h = &self->h;
	const struct heki_range good = {
		.gpa = HEKI_PAGE(FRESH), .len = PAGE_SIZE, .va = HEKI_PAGE(FRESH),
		.rights = HEKI_EXEC, .kind = HEKI_KIND_POOL,
	};
	struct heki_range range[2];

#define REFUSED(error, field...) ({					\
	range[0] = good;						\
	range[0] field;							\
	EXPECT_EQ(-(error), send_grant(h, HEKI_OP_GRANT, range, 1));	\
})
	memset(heki_hva(h, VA(FRESH, 0)), 0xcc, PAGE_SIZE);
	REFUSED(KVM_EINVAL, .gpa += 8);
	REFUSED(KVM_EINVAL, .len += 8);
	REFUSED(KVM_EINVAL, .len = 0);
	REFUSED(KVM_EINVAL, .va += 8);
	REFUSED(KVM_EINVAL, .va = 0);
	REFUSED(KVM_EINVAL, .rights = HEKI_WRITE);
	REFUSED(KVM_EINVAL, .rights = HEKI_RIGHTS);
	REFUSED(KVM_EINVAL, .rights = 0);
	REFUSED(KVM_EINVAL, .kind = HEKI_KIND_TEXT);
	REFUSED(KVM_EINVAL, .kind = HEKI_KIND_FTRACE);
	REFUSED(KVM_EINVAL, .gpa = -PAGE_SIZE);
	REFUSED(KVM_E2BIG, .len = (HEKI_MAX_GRANT_PAGES + 1) * PAGE_SIZE);
	REFUSED(KVM_EINVAL, .gpa = HEKI_HOLE_GPA);
	/* An address that is another page's already. */
	REFUSED(KVM_EINVAL, .va = VA(POOL, 0));
#undef REFUSED
	range[0] = good;
	range[1] = good;
	EXPECT_EQ(-KVM_EINVAL, send_grant(h, HEKI_OP_GRANT, range, 2));
	EXPECT_EQ(-KVM_EINVAL, send_grant(h, HEKI_OP_GRANT, range, 0));
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_write, VA(FRESH, 0), HEKI_ATTACK));
	memset(heki_hva(h, VA(FRESH, 0)), 0xcc, PAGE_SIZE);
	EXPECT_EQ(0, send_grant(h, HEKI_OP_GRANT, &good, 1));
}

/*
 * Jumps to arg[0], where INT3 is: its exception comes with the next address.
 */
static u64 guest_run_pool(u64 *arg)
{
	u64 vector;

	asm volatile("mov $" __stringify(KVM_EXCEPTION_MAGIC) ", %%r9\n\t"
		     "mov %[next], %%r10\n\t"
		     "lea 1f(%%rip), %%r11\n\t"
		     "jmp *%[gva]\n\t"
		     "1: mov %%r9, %[vector]\n\t"
		     : [vector] "=r"(vector)
		     : [gva] "r"(arg[0]), [next] "r"(arg[0] + 1)
		     : KVM_ASM_SAFE_CLOBBERS, "memory");
	return vector;
}

/* A page runs after its grant and no longer after its release; writes the other way round. */
TEST(a_pool_page_is_never_writable_and_executable)
{
	struct heki_vm h;
	struct heki_seal *req;

	heki_vm_create(&h, NR_VCPUS);
	req = heki_begin_exec_request(&h);
	if (!heki_has_exec(&h)) {
		heki_vm_free(&h);
		SKIP(return, "no MBEC and no GMET");
	}
	req = heki_begin_exec_request(&h);
	memset(heki_hva(&h, VA(POOL, 0)), 0xcc, PAGE_SIZE);
	add_range_at(req, POOL, 1, HEKI_EXEC, HEKI_KIND_POOL);
	heki_seal_exec(&h, req);

	/* INT3, not #GP: it ran. */
	EXPECT_EQ(BP_VECTOR, heki_call(h.vcpu[1], guest_run_pool, VA(POOL, 0)));
	EXPECT_EQ(0, change_pages(&h, HEKI_OP_RELEASE, POOL, 1));
	EXPECT_TRUE(heki_cannot_run(h.vcpu[1], VA(POOL, 0)));
	EXPECT_EQ(0, heki_call(h.vcpu[1], guest_write, VA(POOL, 0), ~0ull / 0xff * 0xcc));
	EXPECT_EQ(0, change_pages(&h, HEKI_OP_GRANT, POOL, 1));
	EXPECT_EQ(BP_VECTOR, heki_call(h.vcpu[1], guest_run_pool, VA(POOL, 0)));
	EXPECT_EQ(GP_VECTOR, heki_call(h.vcpu[1], guest_write, VA(POOL, 0), HEKI_ATTACK));
	heki_vm_free(&h);
}

/*
 * The profile
 */

TEST(profiles_are_checked_whole)
{
	struct heki_vm h = { .vm = vm_create_barebones() };
	struct profile profile;

	h.device = kvm_create_device(h.vm, KVM_DEV_TYPE_HEKI);
#define REFUSED(error, field...) ({			\
	profile = good_profile();			\
	profile field;					\
	EXPECT_EQ(error, set_profile(&h, &profile));	\
})
	REFUSED(EINVAL, .head.version--);
	REFUSED(EINVAL, .head.base = 0);
	REFUSED(EINVAL, .head.base = -PAGE_SIZE);
	REFUSED(EINVAL, .head.text_len = 0);
	REFUSED(EINVAL, .head.text_len += 8);
	REFUSED(EINVAL, .head.build_id_len = HEKI_MAX_BUILD_ID + 1);
	REFUSED(EINVAL, .head.build_id[HEKI_MAX_BUILD_ID - 1] = 1);
	REFUSED(EINVAL, .entry[0] = HANDLER_B);			/* not ascending */
	REFUSED(EINVAL, .entry[3] = TEXT_BYTES);		/* no text */
	REFUSED(EINVAL, .entry[4] = TEXT_BYTES - 4);		/* no room for a call */
	REFUSED(E2BIG, .head.nr_functions = ~0u);
	REFUSED(EINVAL, .entry[6] = TEXT_BYTES);		/* no text */
	REFUSED(EINVAL, .head.reserved = 1);
	REFUSED(E2BIG, .head.nr_frozen = HEKI_MAX_PROFILE_ENTRIES + 1);
	REFUSED(E2BIG, .head.nr_probes = HEKI_MAX_PROBES + 1);
#undef REFUSED
	profile = good_profile();
	EXPECT_EQ(EFAULT, set_profile(&h, (void *)8));
	EXPECT_EQ(0, set_profile(&h, &profile));
	/* Another one before the first vCPU is fine, after it none is. */
	EXPECT_EQ(0, set_profile(&h, &profile));
	__vm_vcpu_add(h.vm, 0);
	EXPECT_EQ(EBUSY, set_profile(&h, &profile));
	heki_vm_free(&h);
}

TEST(a_profile_of_another_kernel_refuses_the_seal)
{
	struct heki_vm h;
	struct profile profile;
	int i;

	for (i = 0; i < 3; i++) {
		profile = good_profile();
		if (i == 0)
			profile.head.text_len = PAGE_SIZE;
		else if (i == 1)
			profile.head.base += PAGE_SIZE;
		else
			profile.head.build_id[0] ^= 1;
		create_with_profile(&h, &profile, 0);
		add_areas(begin_kernel_request(&h));
		EXPECT_EQ(-KVM_EPERM, heki_send(&h, h.vcpu[0]));
		EXPECT_EQ(HEKI_STATE_OPEN, heki_query(&h).state);
		heki_vm_free(&h);
	}
}

HEKI_TEST(patch, query_tells_what_is_served)
{
	u32 patch = heki_query(&self->h).patch;
	u32 profiled = HEKI_PATCH_FTRACE | HEKI_PATCH_PROBE | HEKI_TARGET_SYMBOL;

	EXPECT_EQ(HEKI_PATCH_JUMP_LABEL | HEKI_PATCH_STATIC_CALL | HEKI_TARGET_HASH |
		  (variant->profile ? profiled : 0), patch);
}

int main(int argc, char *argv[])
{
	heki_require();
	return test_harness_run(argc, argv);
}
