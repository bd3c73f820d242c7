"""Products for gradients, summed in float32, and the wide view of memory."""

import pytest
import torch

from fluxflow_exp.models.products import product, sum_type, wide


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_product_is_that_of_the_transpose_in_float32_or_better(dtype: torch.dtype) -> None:
    rows, columns = torch.tensor([[1, 2], [3, 4]], dtype=dtype), torch.tensor([[1, 0, 2], [0, 1, 1]], dtype=dtype)
    found = product(rows, columns)
    assert found.dtype == sum_type(rows) == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert found.tolist() == [[1, 3, 5], [2, 4, 8]]


@pytest.mark.parametrize(("dtype", "width", "elements"), [(torch.bfloat16, 8, 2), (torch.float32, 3, 3)])
def test_memory_is_seen_as_eight_bytes_an_element_where_rows_allow_it(
    dtype: torch.dtype, width: int, elements: int
) -> None:
    values = torch.arange(2 * width, dtype=dtype).view(2, width)
    assert wide(values).shape == (2, elements)
    assert wide(values).data_ptr() == values.data_ptr()
    assert wide(torch.ones(2, dtype=torch.float64)).dtype == torch.float64
